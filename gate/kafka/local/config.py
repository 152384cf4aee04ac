"""Configuration of a local broker: its properties, its log and its identity."""

import base64
import errno
import json
import random
import socket
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gate.errors import GateError

HOST = "127.0.0.1"
DATA = "data"
LOG = "broker.log"
_LOWEST_PORT = 10_000

_MOST_REPLICAS = 3

_DEFAULTS = {
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
# Several brokers on one machine take turns at its cores: who is a little late must not be taken for gone
_OF_SEVERAL = {
    "broker.session.timeout.ms": "4000",
    # A copy whose leader has moved asks the new one too soon, and again after a second by default; writers wait for it
    "replica.fetch.backoff.ms": "100",
    # At the start nobody leads: the first controller stands for election after one to two of these, a second by default
    "controller.quorum.election.timeout.ms": "300",
    "controller.quorum.election.backoff.max.ms": "200",
}

LOG4J = """\
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c)%n%ex{short}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a node is: its id in the cluster, and its ports."""

    number: int
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        """`HOST:PORT` for clients."""
        return f"{HOST}:{self.port}"


def sites(count: int, first_port: int | None = None) -> tuple[Site, ...]:
    """Return places for nodes 1 to `count`, on free ports, or on `first_port` and those behind it."""
    taken: set[int] = set() if first_port is None else set(range(first_port, first_port + count))
    found = []
    for index in range(count):
        port = free_port(taken=taken) if first_port is None else first_port + index
        taken.add(port)
        controller_port = free_port(taken=taken)
        taken.add(controller_port)
        found.append(Site(index + 1, port, controller_port))
    return tuple(found)


def new_id() -> str:
    """Return a UUID in Kafka's spelling, which must not begin with a dash: tools take it for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def identity(cluster: str, number: int) -> str:
    """Return the `meta.properties` of a node in a cluster."""
    return f"version=1\ncluster.id={cluster}\nnode.id={number}\ndirectory.id={new_id()}\n"


def _copies(nodes: int) -> Mapping[str, str]:
    """Return how often things are kept, so that what is acknowledged survives the loss of one of three nodes."""
    copies = min(nodes, _MOST_REPLICAS)
    least = max(1, copies - 1)
    return {
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(least),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(least),
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": str(least),
    }


def server_properties(site: Site, cluster: Sequence[Site], more: Mapping[str, str]) -> str:
    """Return `server.properties` of the node at `site`; its layout can't be replaced by `more` (ValueError).

    `listeners` of `more` are added to those that the node has.
    """
    layout = {
        "process.roles": "broker,controller",
        "node.id": str(site.number),
        # Static voters: the data folder may then be served on other ports the next time
        "controller.quorum.voters": ",".join(f"{one.number}@{HOST}:{one.controller_port}" for one in cluster),
        "listeners": f"PLAINTEXT://{site.address},CONTROLLER://{HOST}:{site.controller_port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": DATA,  # relative: a path may hold a comma, and this is a list
    }
    if added := more.get("listeners"):
        layout["listeners"] += f",{added}"
        more = {name: value for name, value in more.items() if name != "listeners"}
    if fixed := layout.keys() & more.keys():
        raise ValueError(f"the local broker sets {', '.join(sorted(fixed))} itself")
    usual = {**_DEFAULTS, **_copies(len(cluster)), **(_OF_SEVERAL if len(cluster) > 1 else {})}
    # JSON's escapes are also those of a Java properties file, which is read as Latin-1
    return "".join(f"{name}={json.dumps(value)[1:-1]}\n" for name, value in {**layout, **usual, **more}.items())


def free_port(*, taken: Collection[int] = ()) -> int:
    """Return a port that is free at this moment and that the kernel gives to nobody who connects to something.

    While a broker is down its clients keep knocking; from the ephemeral range one of them could be handed the very
    port it knocks at, and would talk to itself.
    """
    lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    choices = range(_LOWEST_PORT, lowest_ephemeral) if lowest_ephemeral > _LOWEST_PORT + 1000 else range(1024, 65536)
    while True:
        port = random.choice(choices)  # noqa: S311
        if port not in taken and is_free(port):
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
