"""What tests of consumer programs share."""

import asyncio
from collections.abc import Callable, Iterator
from threading import Thread

import pytest

from gate.protocol.topics import Names
from tests.client.gated import POLICY, Gated
from tests.client.log import Log
from tests.client.receivers import Receiver
from tests.system.gates import gate
from tests.system.gates import until as wait_until


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
        pause = 0.02
        async with asyncio.timeout(seconds):
            while True:
                result = condition()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(pause)
                pause = min(0.1, pause * 1.1)  # many conditions read topics

    return until


@pytest.fixture(scope="module")
def gated(bootstrap: str, shared_prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    """A running gate that the tests of a module share; each uses services of its own."""
    with gate(tmp_path_factory.mktemp("gate"), bootstrap, shared_prefix, POLICY, "--http", "0") as process:
        wait_until(process.is_ready, explain=process.text)
        yield Gated(bootstrap, Names(shared_prefix), process)


@pytest.fixture
def receiver():
    receiver = Receiver()
    Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
