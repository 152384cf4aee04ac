"""What tests of consumer programs share."""

import asyncio
from collections.abc import Callable

import pytest

from gate.kafka.topics import Names
from tests.consumers.log import Log


@pytest.fixture
def names(prefix: str) -> Names:
    return Names(prefix)


@pytest.fixture
def log(bootstrap: str, names: Names) -> Log:
    return Log(bootstrap, names)


@pytest.fixture
async def start():
    """Run programs in the background; each is stopped at the end, and must not have failed."""
    running = []

    def start(program):
        running.append((program, asyncio.create_task(program.run())))
        return running[-1][1]

    yield start
    for program, task in running:
        program.stop()
        program.stop()
        await asyncio.wait_for(task, 20)


@pytest.fixture
def until() -> Callable:
    """Wait for a condition, plain or awaitable."""

    async def until(condition, seconds: float = 20.0):
        async with asyncio.timeout(seconds):
            while True:
                result = condition()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(0.02)

    return until
