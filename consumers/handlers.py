"""What does the work: callables of any kind, and commands."""

import asyncio
import inspect
import os
import random
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from gate.kafka.headers import original_id

_UNFIT_FOR_ENV: Final = re.compile(r"[^A-Z0-9]")


@dataclass(frozen=True, slots=True)
class Job:
    """An admitted request, as a handler gets it. `attempt` counts this handler's tries from 1."""

    service: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    attempt: int = 1

    @property
    def id(self) -> str:
        """The request's id of the gate's stamp; the same at every redelivery."""
        return original_id(self.headers) or f"{self.topic}-{self.partition}@{self.offset}"

    def header(self, name: str) -> bytes | None:
        """Return the last header of that name."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again: pauses double from `first` up to `longest` seconds, each shortened by up to a half at random.

    The randomness keeps jobs that failed together from failing together again.
    """

    attempts: int = 5
    first: float = 0.5
    longest: float = 30.0

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt, counted from 1."""
        whole = min(self.longest, self.first * 2.0 ** min(attempt - 1, 60))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - guards nothing


Handler: TypeAlias = Callable[[Job], object] | Callable[[Job], Awaitable[object]]


class CommandError(Exception):
    """A command that did not end with 0."""


async def call(handler: Handler, job: Job, threads: Executor) -> None:
    """Run a handler: in the event loop if it is asynchronous, else in a thread."""
    work: Callable[[], object] = partial(handler, job)
    asynchronous = inspect.iscoroutinefunction(handler)
    answer = work() if asynchronous else await asyncio.get_running_loop().run_in_executor(threads, work)
    if inspect.isawaitable(answer):  # also of a plain function that returns a coroutine, such as a lambda
        await answer


def command(argv: Sequence[str]) -> Callable[[Job], Awaitable[None]]:
    """Return a handler that runs a command per job: the payload on its stdin, what else is known in its environment.

    GATE_SERVICE, GATE_ID, GATE_KEY, GATE_ATTEMPT, and GATE_HEADER_<NAME> per header, upper case with `_` for what is
    no letter or digit. Bytes that are no UTF-8 arrive unchanged. The command is killed with its children when the
    worker has to stop at once.
    """

    async def run(job: Job) -> None:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            env=os.environ | _environment(job),
            process_group=0,  # Ctrl-C is for the worker, which lets its commands finish
        )
        try:
            await process.communicate(job.value or b"")
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code := process.returncode:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
            raise CommandError(f"{argv[0]} {how}")

    return run


def _environment(job: Job) -> dict[str, str]:
    values = {
        "GATE_SERVICE": job.service.encode(),
        "GATE_ID": job.id.encode(),
        "GATE_ATTEMPT": b"%d" % job.attempt,
        "GATE_KEY": job.key or b"",
    }
    for name, value in job.headers:
        values[f"GATE_HEADER_{_UNFIT_FOR_ENV.sub('_', name.upper())}"] = value or b""
    return {name: os.fsdecode(value.replace(b"\0", b"")) for name, value in values.items()}  # NUL ends a C string
