"""One run of one contender; the method is described in the package."""

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from aiokafka.errors import KafkaError

from bench.pipeline.contenders import PARTITIONS, UNREACHED, Contender, Setting
from bench.pipeline.load import Shape, fill
from bench.pipeline.process import FailedError, Process
from bench.pipeline.topics import Topics, partitions_of

POLL = 0.01
PAUSES = 10  # as long as the last answer took
DEADLINE = 180.0
SMALL = 100  # bytes of a value that only warms up


@dataclass(frozen=True, slots=True)
class Case:
    """What is run. `form`: `all` are admitted, or exactly `half`. `records` of load, all services together."""

    contender: Contender
    shape: Shape
    records: int
    form: str = "all"
    services: int = 1

    @property
    def name(self) -> str:
        parts = [self.contender.name, f"{self.shape.value_size} B", self.form]
        parts += [f"{self.services} services"] * (self.services > 1) + [f"{self.shape.tenants} tenants"] * bool(
            self.shape.tenants
        )
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Outcome:
    cpu: float  # us per record
    rate: float  # records per second
    memory: float  # MB resident, at the most


async def run(case: Case, bootstrap: str) -> Outcome:
    """Run once. Raises FailedError, with the end of the contender's log, if it fails or its outputs are wrong."""
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    async with Topics(bootstrap) as topics:
        try:
            return await _run(case, topics, prefix, folder)
        except (KafkaError, OSError, TimeoutError) as error:
            raise FailedError(f"{case.name}: the benchmark's own clients failed: {error!r}") from error
        finally:
            await topics.drop(prefix)
            shutil.rmtree(folder, ignore_errors=True)


async def _run(case: Case, topics: Topics, prefix: str, folder: Path) -> Outcome:
    warm_up = max(case.contender.warm_up, case.services)
    half = case.form == "half"
    limit = warm_up + case.records // 2 if half else UNREACHED
    services = [f"service{number:04}" for number in range(case.services)]
    setting = Setting(topics.bootstrap, prefix, limit, folder, services, tenants=bool(case.shape.tenants))
    each = PARTITIONS if case.services == 1 else 1
    kinds = ("requests", "admitted", "delayed")
    await topics.create({topic: each for kind in kinds for topic in setting.topics(kind)})
    requests, admitted, delayed = (partitions_of(setting.topics(kind), each) for kind in kinds)

    async def passed() -> int:
        if case.contender.commits:
            return await topics.committed(prefix, requests)
        return await topics.ends([*admitted, *delayed])

    await fill(topics.bootstrap, requests, warm_up, replace(case.shape, value_size=SMALL))
    with Process(case.name, case.contender.command(setting), folder / "log") as process:
        await _reach(passed, warm_up, process)
        process.freeze()
        await fill(topics.bootstrap, requests, case.records, case.shape)
        started, cpu = time.monotonic(), process.cpu()
        process.thaw()
        await _reach(passed, warm_up + case.records, process)
        cpu, seconds = process.cpu() - cpu, time.monotonic() - started
        _, memory = process.memory()
    counted = [await topics.count(partitions) for partitions in (admitted, delayed)]
    expected = [warm_up + case.records, 0]
    if half:
        expected = [limit, warm_up + case.records - limit]
    if counted != expected:
        raise FailedError(f"{case.name}: {counted} records admitted and delayed instead of {expected}")
    return Outcome(cpu / case.records / 1e3, case.records / seconds, memory / 1e6)


async def _reach(passed: Callable[[], Awaitable[int]], wanted: int, process: Process) -> None:
    """Wait until all of the load is through."""
    end = time.monotonic() + DEADLINE
    while True:
        asked = time.monotonic()
        if (now := await passed()) >= wanted:
            return
        process.check()
        if time.monotonic() > end:
            raise process.failed(f"only {now:,} of {wanted:,} records were through after {DEADLINE:g} s")
        # of a thousand partitions the answer costs the broker more than their requests: rarely enough not to matter
        await asyncio.sleep(max(POLL, PAUSES * (time.monotonic() - asked)))
