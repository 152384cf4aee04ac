"""Servers that contenders need: each a process of its own, on loopback, ended with the block."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from bench.mesh import setup
from gate.kafka.local import LocalBroker
from gate.kafka.local.config import HOST, free_port

DOMAIN: Final = "edge"
PREFIX: Final = "mesh"
GUBERNATOR_PORTS: Final = range(9990, 9996)  # it takes no others
UNREACHED: Final = 10**9  # per second
_START_SECONDS: Final = 60.0
_TICK: Final = os.sysconf("SC_CLK_TCK")


class FailedError(RuntimeError):
    """A contender can't be measured; the others go on."""


def until(condition: Callable[[], Any], what: str, check: Callable[[], None] = lambda: None) -> Any:
    """Return what `condition` does when it is true. Raises FailedError if it does not come to that."""
    end = time.monotonic() + _START_SECONDS
    while not (found := condition()):
        check()
        if time.monotonic() > end:
            raise FailedError(f"{what} within {_START_SECONDS:g} s")
        time.sleep(0.02)
    return found


@dataclass
class Servers:
    """The processes that run, and how to reach them."""

    folder: Path
    stack: ExitStack
    limit: int  # per second, of the services that have one
    bootstrap: str = ""
    prefix: str = ""
    addresses: dict[str, list[str]] = field(default_factory=dict)
    pids: list[int] = field(default_factory=list)

    def spent(self) -> float:
        """Return the CPU time of all of them so far, seconds."""
        return sum(_spent(pid) for pid in self.pids)

    def start(self, name: str, command: Sequence[object], **variables: str) -> "Server":
        """Start a process; it is ended with the block."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.stack.callback(_end, process)
        self.pids.append(process.pid)
        return Server(name, process, log)

    def broker(self, bootstrap: str | None) -> None:
        """Have a broker: the one at `bootstrap`, or one that is started."""
        if bootstrap is None:
            before = set(_children())
            broker = self.stack.enter_context(LocalBroker.start(heap="1g", optimize=True))
            self.pids += set(_children()) - before
            bootstrap = broker.bootstrap
        self.bootstrap = bootstrap

    def gate(self, prefix: str) -> None:
        """Start a gate with the limits; `prefix` keeps it apart from others on this broker."""
        self.prefix = prefix
        limited = {"requests_per_second": self.limit, "burst_size": self.limit, "window_size": 1}
        unreached = {"requests_per_second": UNREACHED, "burst_size": UNREACHED, "window_size": 1}
        match = {name: {"match": {"domain": DOMAIN, "descriptors": {"path": f"/{name}"}}} for name in SERVICES}
        policy = {
            "prefix": prefix,
            "shards": 4,
            "services": {name: (unreached if name == OPEN else limited) | match[name] for name in SERVICES},
        }
        config = self.folder / "policy.yaml"
        config.write_text(yaml.safe_dump(policy))
        command = [sys.executable, "-m", "gate", "run", "--config", config, "--bootstrap", self.bootstrap]
        server = self.start("gate", command)
        until(lambda: "gate runs" in server.text(), "the gate does not run", server.check)

    def sidecar(self) -> None:
        """Start `gate sidecar` with the limits of the gate."""
        command = [sys.executable, "-m", "gate", "sidecar", "--config", self.folder / "policy.yaml", "--log", "json"]
        command += ["--bootstrap", self.bootstrap, "--rls", f"{HOST}:0", "--http", "off"]
        server = self.start("sidecar", command)
        line = until(
            lambda: next((line for line in server.text().splitlines() if "sidecar runs" in line), None),
            "the sidecar does not run",
            server.check,
        )
        self.addresses["sidecar"] = [json.loads(line)["rls"]]

    def redis(self) -> None:
        """Start Redis; nothing is kept on disk."""
        program, port = setup.redis(), free_port()
        options = ["--bind", HOST, "--port", port, "--save", "", "--appendonly", "no", "--dir", self.folder]
        server = self.start("redis", [program.path, *options], **program.variables)
        self._serves(server, f"{HOST}:{port}")

    def ratelimit(self) -> None:
        """Start envoyproxy/ratelimit before Redis."""
        program, port = setup.go_program(*setup.RATELIMIT), free_port()
        (self.folder / "ratelimit/config").mkdir(parents=True, exist_ok=True)
        per_second = {name: UNREACHED if name == OPEN else self.limit for name in SERVICES}
        descriptors = [
            {
                "key": "path",
                "value": f"/{name}",
                "rate_limit": {"unit": "second", "requests_per_unit": per_second[name]},
            }
            for name in SERVICES
        ]
        config = {"domain": DOMAIN, "descriptors": descriptors}
        (self.folder / "ratelimit/config/config.yaml").write_text(yaml.safe_dump(config))
        ports = {"PORT": str(free_port()), "DEBUG_PORT": str(free_port()), "GRPC_PORT": str(port)}
        hosts = {"HOST": HOST, "DEBUG_HOST": HOST, "GRPC_HOST": HOST}
        runtime = {"RUNTIME_ROOT": str(self.folder), "RUNTIME_SUBDIRECTORY": "ratelimit", "RUNTIME_WATCH_ROOT": "false"}
        redis = {"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": self.addresses["redis"][0], "BACKEND_TYPE": "redis"}
        variables = ports | hosts | runtime | redis | {"USE_STATSD": "false", "LOG_LEVEL": "error"}
        self._serves(self.start("ratelimit", [program.path], **variables), f"{HOST}:{port}")

    def gubernator(self) -> None:
        """Start six that know each other, in one process: as gubernator does it to try clients."""
        program = setup.go_program(*setup.GUBERNATOR)
        server = self.start("gubernator", [program.path], OTEL_TRACES_EXPORTER="none")
        until(lambda: "Running" in server.text(), "gubernator does not run", server.check)
        self.addresses["gubernator"] = [f"{HOST}:{port}" for port in GUBERNATOR_PORTS]

    def _serves(self, server: "Server", address: str) -> None:
        until(lambda: _accepts(address), f"{server.name} does not serve", server.check)
        self.addresses[server.name] = [address]


@dataclass(frozen=True)
class Server:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raise FailedError if it has ended."""
        if (code := self.process.poll()) is not None:
            tail = "\n".join(self.text().splitlines()[-8:])
            raise FailedError(f"{self.name} ended with exit code {code}; its log ends with:\n{tail}")


OPEN, LIMITED, SPELLS = "open", "limited", "spells"
SERVICES: Final = (OPEN, LIMITED, SPELLS)


@contextmanager
def servers(needs: Sequence[str], folder: Path, limit: int, bootstrap: str | None) -> Iterator[Servers]:
    """Run what a contender needs, in this order. Raises MissingError and FailedError."""
    with ExitStack() as stack:
        running = Servers(folder, stack, limit)
        for need in needs:
            match need:
                case "broker":
                    running.broker(bootstrap)
                case "gate":
                    running.gate(f"{PREFIX}-{folder.name}")
                case other:
                    getattr(running, other)()
        yield running


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


def _children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def _spent(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
