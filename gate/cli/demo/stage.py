"""The stage of the demonstration: topics, and the gate and programs, each in a process of its own."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from gate.errors import GateError
from gate.kafka.access import access
from gate.kafka.aio.client import adopt
from gate.kafka.local import bound
from gate.kafka.local.config import HOST, free_port
from gate.protocol.topics import Names

PARTITIONS: Final = 3  # of each request topic
SHARDS: Final = 4  # three services need no more, and each shard takes a moment to start
_READY_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
_POLL: Final = 0.1
_TAIL: Final = 15  # lines of the log that a failure shows


@asynccontextmanager
async def request_topics(bootstrap: str, names: Names, services: Iterable[str], *, leave: bool) -> AsyncIterator[None]:
    """Create the topics of requests and results; at the end delete all of these names unless told to `leave` them."""
    admin = AIOKafkaAdminClient(**access(bootstrap))
    adopt(admin)
    await admin.start()
    try:
        # -1: as many copies as the broker makes by itself; without the {} aiokafka takes it for a mistake
        topics = [topic(service) for service in services for topic in (names.requests, names.results)]
        wanted = [NewTopic(topic, PARTITIONS, -1, {}) for topic in topics]
        answer = await admin.create_topics(wanted)
        for topic, code, why in answer.topic_errors:
            if code:
                raise GateError(f"topic {topic} could not be created: {why or f'error {code}'}")
        try:
            yield
        finally:
            if not leave:
                there = await admin.list_topics()
                await admin.delete_topics([topic for topic in there if topic.startswith(f"{names.prefix}.")])
    finally:
        await admin.close()


class Program:
    """A program as a child: it dies with this process, however that ends. What it says goes to a file."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self._name = name
        self._log = log
        self._process = bound.spawn([sys.executable, *command], cwd=Path.cwd(), output=log)

    def check(self) -> None:
        """Raise GateError if it has ended."""
        if (code := self._process.poll()) is not None:
            raise self._error(f"{self._name} ended with exit code {code}")

    async def stop(self) -> None:
        """Let it finish what is under way and end; raises GateError if it fails at that. May be called again."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._error(f"{self._name} did not stop within {_STOP_SECONDS:g} s of SIGTERM") from None
        if code != 0:
            raise self._error(f"{self._name} ended with exit code {code} on SIGTERM")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def _error(self, message: str) -> GateError:
        lines = self._log.read_text("utf-8", errors="replace").splitlines()[-_TAIL:]
        return GateError(message, hint="\n".join([f"its log, {self._log}, ends with:", *lines]))


class GateProcess(Program):
    """`gate run`."""

    def __init__(self, policy: Path, bootstrap: str, prefix: str, log: Path) -> None:
        self._port = free_port()
        command = ["-m", "gate", "run", "--config", str(policy), "--bootstrap", bootstrap, "--prefix", prefix]
        super().__init__("the gate", [*command, "--shards", str(SHARDS), "--http", str(self._port)], log)

    @property
    def url(self) -> str:
        """Where its console is."""
        return f"http://{HOST}:{self._port}/"

    async def ready(self) -> None:
        """Return when it decides about requests. Raises GateError if it ends, or takes too long."""
        reasons = "it does not answer"
        try:
            async with asyncio.timeout(_READY_SECONDS), httpx.AsyncClient(trust_env=False) as client:
                while True:
                    self.check()
                    try:
                        answer = await client.get(f"{self.url}readyz")
                    except httpx.TransportError:
                        pass
                    else:
                        if answer.is_success:
                            return
                        reasons = "; ".join(answer.json()["reasons"])
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise self._error(f"the gate is not ready after {_READY_SECONDS:g} s: {reasons}") from None


async def watch(programs: Iterable[Program]) -> None:
    """Raise GateError as soon as one of them ends."""
    while True:
        for program in programs:
            program.check()
        await asyncio.sleep(_POLL)


def consumers() -> Path:
    """Return the folder with the programs to copy: a wheel brings it along, a clone has it at its top."""
    packed = Path(__file__).with_name("consumers")
    return packed if packed.is_dir() else Path(__file__).parents[3] / "consumers"
