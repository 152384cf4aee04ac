"""What the broker is told: its properties, its log and its identity."""

import base64
import errno
import json
import random
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

from gate.errors import GateError

HOST = "127.0.0.1"
DATA = "data"
LOG = "broker.log"
_LOWEST_PORT = 10_000

_DEFAULTS = {
    # One node must be enough for every internal topic
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Few partitions: each costs files and start-up time, and four still spread transactional ids
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "auto.create.topics.enable": "false",  # as in production: topics are made on purpose
    "group.initial.rebalance.delay.ms": "0",  # nobody else is coming
    "group.min.session.timeout.ms": "1000",  # lets a test lose a member quickly
    # After SIGKILL a broker must wait until the controller has given up its former self: 9 s by default
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "16777216",  # bytes; the default takes a quarter of the heap
}

LOG4J = """\
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c)%n%ex{short}
"""


def identity() -> tuple[str, str]:
    """Return a new cluster id and the `meta.properties` of node 1 in it."""
    cluster, directory = _uuid(), _uuid()
    return cluster, f"version=1\ncluster.id={cluster}\nnode.id=1\ndirectory.id={directory}\n"


def _uuid() -> str:
    """Return a UUID in Kafka's spelling, which must not begin with a dash: tools take it for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def server_properties(port: int, controller_port: int, more: Mapping[str, str]) -> str:
    """Return `server.properties`; what lays out the node itself can't be replaced by `more` (ValueError).

    `listeners` of `more` are added to those that the node has.
    """
    layout = {
        "process.roles": "broker,controller",
        "node.id": "1",
        # Static voters: the data folder may then be served on other ports the next time
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": DATA,  # relative: a path may hold a comma, and this is a list
    }
    if added := more.get("listeners"):
        layout["listeners"] += f",{added}"
        more = {name: value for name, value in more.items() if name != "listeners"}
    if fixed := layout.keys() & more.keys():
        raise ValueError(f"the local broker sets {', '.join(sorted(fixed))} itself")
    # JSON's escapes are also those of a Java properties file, which is read as Latin-1
    return "".join(f"{name}={json.dumps(value)[1:-1]}\n" for name, value in {**layout, **_DEFAULTS, **more}.items())


def free_port(*, taken: int | None = None) -> int:
    """Return a port that is free at this moment and that the kernel gives to nobody who connects to something.

    While a broker is down its clients keep knocking; from the ephemeral range one of them could be handed the very
    port it knocks at, and would talk to itself.
    """
    lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    choices = range(_LOWEST_PORT, lowest_ephemeral) if lowest_ephemeral > _LOWEST_PORT + 1000 else range(1024, 65536)
    while True:
        port = random.choice(choices)  # noqa: S311
        if port != taken and is_free(port):
            return port


def is_free(port: int) -> bool:
    """Return whether a server could listen at the port now. Raises GateError if that is not for this user to ask."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the JVM does: TIME_WAIT is no obstacle
        try:
            server.bind((HOST, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise GateError(f"port {port} can't be used: {error.strerror}", hint="choose one above 1023") from error
            return False
    return True
