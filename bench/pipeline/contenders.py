"""Who is measured, and how each is started."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.pipeline.process import FailedError
from gate.kafka.local import jvm

STREAMS = Path(__file__).parents[1] / "kafka-streams"
STREAMS_JAR = Path("build/kafka-streams/peer.jar")
PARTITIONS = 4
UNREACHED = 10**9  # a limit that no load reaches


@dataclass(frozen=True, slots=True)
class Setting:
    """What a contender is told. `limit`: how many may be admitted at once, of the warm-up and the load together."""

    bootstrap: str
    prefix: str
    limit: int
    folder: Path  # of this run alone
    services: Sequence[str] = ("pay",)
    tenants: bool = False

    def topics(self, kind: str) -> list[str]:
        return [f"{self.prefix}.{kind}.{service}" for service in self.services]


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    command: Callable[[Setting], list[str]]
    commits: bool  # whether it is done when its offsets are committed; else when its outputs are written
    warm_up: int  # records
    load: int  # records of a full run: about a second of work at the least


def gate_command(setting: Setting, delivery: str, limits: Mapping[str, object]) -> list[str]:
    """Return the gate's command line, metrics over HTTP on, after writing its policy."""
    policy = {"prefix": setting.prefix, "delivery": delivery, "session_timeout": 30, "defaults": dict(limits)}
    config = setting.folder / "policy.yaml"
    config.write_text(yaml.safe_dump(policy))
    command = [sys.executable, "-m", "gate", "run", "--config", str(config.resolve()), "--http", "0"]
    return [*command, "--bootstrap", setting.bootstrap]


def gate(delivery: str, *, once: bool = False) -> Contender:
    """Return the gate with both kinds of limit: bucket and window; `once`: no id twice."""

    def command(setting: Setting) -> list[str]:
        limits: dict[str, object] = {
            "requests_per_second": setting.limit if setting.limit == UNREACHED else "1/h",
            "burst_size": setting.limit,
            "window_size": "1d",
            "window_limit": setting.limit,
        }
        if setting.tenants:
            limits["tenants"] = {"default": {"requests_per_second": UNREACHED, "burst_size": UNREACHED}}
        if once:
            limits["deduplicate"] = "24h"
        return gate_command(setting, delivery, limits)

    return Contender(
        f"gate {delivery}{' deduplicate' if once else ''}", command, commits=True, warm_up=8_000, load=200_000
    )


def python_peer(name: str, module: str, load: int) -> Contender:
    def command(setting: Setting) -> list[str]:
        options = {"bootstrap": setting.bootstrap, "group": setting.prefix, "limit": str(setting.limit)}
        options |= {kind: setting.topics(kind)[0] for kind in ("requests", "admitted", "delayed")}
        return [sys.executable, "-m", module, *(part for name in options for part in (f"--{name}", options[name]))]

    return Contender(name, command, commits=False, warm_up=4_000, load=load)


def kafka_streams() -> Contender:
    """Return the Java peer. Its code is compiled while it runs, so it works off one and a half million first."""

    def command(setting: Setting) -> list[str]:
        java = [
            str(jvm.find().executable),
            f"-Dstate.dir={setting.folder.resolve()}",
            "-jar",
            str(STREAMS_JAR.resolve()),
        ]
        topics = [setting.topics(kind)[0] for kind in ("requests", "admitted", "delayed")]
        return [*java, setting.bootstrap, setting.prefix, *topics, str(setting.limit // PARTITIONS)]

    return Contender("kafka-streams", command, commits=True, warm_up=1_500_000, load=400_000)


EXACTLY_ONCE, AT_LEAST_ONCE = gate("exactly_once"), gate("at_least_once")
DEDUPLICATE = gate("exactly_once", once=True)
PYTHON_PEERS = (
    python_peer("naive", "bench.peers.naive", 60_000),
    python_peer("faststream", "bench.peers.faststream_app", 10_000),
    python_peer("quixstreams", "bench.peers.quixstreams_app", 40_000),
    python_peer("confluent", "bench.peers.confluent", 200_000),
)
KAFKA_STREAMS = kafka_streams()


def build_kafka_streams() -> None:
    """Build the Java peer if its sources are newer. Raises FailedError."""
    sources = [path for path in STREAMS.rglob("*") if path.is_file()]
    if STREAMS_JAR.exists() and STREAMS_JAR.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    maven = shutil.which("mvn")
    if maven is None:
        raise FailedError("kafka-streams: Maven is needed to build it; Debian: apt-get install maven")
    answer = subprocess.run(
        [maven, "-q", "-B", "-f", str(STREAMS / "pom.xml"), "package"], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise FailedError(f"kafka-streams: the build failed:\n{answer.stdout[-2000:]}{answer.stderr[-2000:]}")
