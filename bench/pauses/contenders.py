"""The two that are measured: how their instances are started, stopped and killed."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from aiokafka.partitioner import murmur2

from bench.pipeline.contenders import STREAMS_JAR, UNREACHED
from gate.kafka.local import bound, jvm
from gate.protocol.topics import Names
from gate.shard.placement import shard_of
from gate.shard.records import Partition

LANES = 4
SERVICES = ("pay", "gamma", "alpha", "beta")  # of shards 0 to 3
GATE, STREAMS = "gate", "kafka-streams"
OFFSET_PARTITIONS = 4  # of __consumer_offsets, see gate.kafka.local.config
SESSION_SECONDS = 6  # the gate's default
HEARTBEAT_MS = 100
REQUEST_MS = 10_000  # as long as the gate waits for an answer
TRANSACTION_MS = 10_000  # Streams' own default; the gate's transactions are ended by whoever takes over
COMMIT_MS = 100
STOP_SECONDS = 20

assert [shard_of(service, LANES) for service in SERVICES] == list(range(LANES))


def group_partition(group: str) -> int:
    """Return the partition of the offsets topic in which a group is kept, as Java computes it."""
    code = 0
    for letter in group:
        code = (31 * code + ord(letter)) & 0xFFFFFFFF
    signed = code - (1 << 32) if code >> 31 else code
    return abs(signed) % OFFSET_PARTITIONS


def like(group: str, prefix: str) -> str:
    """Return a group's name that begins with `prefix` and has the same coordinator as `group`."""
    names = (f"{prefix}-{number}" for number in range(1_000))
    return next(name for name in names if group_partition(name) == group_partition(group))


def key_of(lane: int) -> bytes:
    """Return a key that Kafka's partitioner puts into partition `lane`."""
    keys = (b"k%d" % number for number in range(1_000))
    return next(key for key in keys if (murmur2(key) & 0x7FFFFFFF) % LANES == lane)


@dataclass
class Contender:
    """A program of which several instances share the work. `lanes`: where requests of each go in, and come out."""

    name: str
    prefix: str
    group: str
    requests: Sequence[Partition]
    outputs: Sequence[Partition]
    state: str  # topic
    command: Callable[[Path], list[str]]
    folder: Path
    living: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)

    def start(self) -> None:
        """Start one more instance."""
        number = len(self.logs) + 1
        place = self.folder / f"{self.name}-{number}"
        place.mkdir()
        self.logs.append(place / "log")
        self.living.append(bound.spawn(self.command(place), cwd=Path.cwd(), output=self.logs[-1]))

    def kill(self) -> None:
        """SIGKILL the oldest instance."""
        process = self.living.pop(0)
        process.kill()
        process.wait()

    def leave(self) -> None:
        """Have the oldest instance end by itself; return at once."""
        self.living.pop(0).send_signal(signal.SIGTERM)

    def check(self) -> None:
        """Raise RuntimeError if an instance has ended."""
        for process in self.living:
            if process.poll() is not None:
                tail = "\n".join(self.logs[-1].read_text(errors="replace").splitlines()[-12:])
                raise RuntimeError(f"an instance of {self.name} ended with {process.returncode}; its log:\n{tail}")

    def stop(self) -> None:
        """End all instances."""
        for process in self.living:
            process.terminate()
        for process in self.living:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.living.clear()


def gate(bootstrap: str, folder: Path) -> Contender:
    names = Names("gate")
    policy = {
        "prefix": "gate",
        "shards": LANES,
        "session_timeout": SESSION_SECONDS,
        "defaults": {"requests_per_second": UNREACHED, "burst_size": UNREACHED, "window_size": None},
        "services": {service: {} for service in SERVICES},
    }
    config = folder / "policy.yaml"
    config.write_text(yaml.safe_dump(policy))
    command = [sys.executable, "-m", "gate", "run", "--config", str(config.resolve()), "--bootstrap", bootstrap]
    return Contender(
        GATE, "gate.", "gate",
        [Partition(names.requests(service), 0) for service in SERVICES],
        [Partition(names.admitted(service), 0) for service in SERVICES],
        names.state, lambda _place: command, folder,
    )  # fmt: skip


def kafka_streams(bootstrap: str, folder: Path) -> Contender:
    application = like("gate", "streams")
    overrides = folder / "streams.properties"
    settings = {
        "replication.factor": 3,
        "num.standby.replicas": 1,
        "num.stream.threads": 2,
        "commit.interval.ms": COMMIT_MS,
        "session.timeout.ms": SESSION_SECONDS * 1000,
        "heartbeat.interval.ms": HEARTBEAT_MS,
        "request.timeout.ms": REQUEST_MS,
        "default.api.timeout.ms": 3 * REQUEST_MS,
        "producer.delivery.timeout.ms": 3 * REQUEST_MS,
        "producer.transaction.timeout.ms": TRANSACTION_MS,
    }
    overrides.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    topics = [f"{application}-{kind}" for kind in ("requests", "admitted", "delayed")]

    def command(place: Path) -> list[str]:
        java = [str(jvm.find().executable), "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options = [f"-Dstate.dir={place.resolve()}", f"-Doverrides={overrides.resolve()}"]
        return [*java, *options, "-jar", str(STREAMS_JAR.resolve()), bootstrap, application, *topics, str(UNREACHED)]

    requests, admitted, _ = ([Partition(topic, lane) for lane in range(LANES)] for topic in topics)
    return Contender(
        STREAMS, application, application, requests, admitted, f"{application}-buckets-changelog", command, folder
    )
