"""Handlers, which do the work: callables of any kind, and commands."""

import asyncio
import contextvars
import inspect
import os
import re
import signal
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast

import msgspec

from gate.client._headers import attempt, backoffs, job_id, last
from gate.client._retry import Backoff
from gate.errors import GateError
from gate.protocol.headers import ID, is_running, origin, original_id

_SECRET: Final = re.compile(r"GATE_(.*(PASSWORD|SECRET|TOKEN).*|SLACK_URL)")  # such a URL is one
_UNFIT_FOR_ENV: Final = re.compile(r"[^A-Z0-9]")


@dataclass(frozen=True, slots=True)
class Job:
    """An admitted request, as a handler gets it. `attempt` counts the attempts from 1, whichever worker made them.

    `timestamp_ms` (unix ms) is when the gate admitted it, `created_ms` its producer's timestamp.
    """

    service: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def id(self) -> str:
        """The id of the gate's stamp on the first request about this job: the same at every redelivery and attempt."""
        return job_id(self.headers) or f"{self.topic}-{self.partition}@{self.offset}"

    @property
    def request_id(self) -> str:
        """The id of the gate's stamp on this very request: of each attempt another one."""
        return original_id(self.headers) or f"{self.topic}-{self.partition}@{self.offset}"

    @property
    def is_running(self) -> bool:
        """Whether the gate counts it as running until it is told that it has ended (`max_running`)."""
        return is_running(self.headers)

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return attempt(self.headers)

    @property
    def backoffs(self) -> int:
        """How often this job was put off before, as its service wanted to be left alone."""
        return backoffs(self.headers)

    @property
    def created_ms(self) -> int | None:
        """The timestamp that the producer of this attempt gave it, unix ms; None: it gave none."""
        stamped = origin(self.headers)
        return stamped.created if stamped is not None and stamped.created >= 0 else None

    @property
    def producer_id(self) -> str | None:
        """The producer's own id of the request (`gate-id`); None: it gave none."""
        known = self.header(ID)
        return None if known is None else known.decode(errors="replace")

    def json(self) -> Any:
        """Return the value, read as JSON. Raises ValueError where it is none."""
        return msgspec.json.decode(self.value or b"")

    def header(self, name: str) -> bytes | None:
        """Return the last header of that name."""
        return last(self.headers, name)


Handler: TypeAlias = Callable[[Job], object] | Callable[[Job], Awaitable[object]]
T = TypeVar("T")


class CommandError(GateError):
    """A command that did not end with 0."""


class HandlerTimeoutError(GateError, TimeoutError):
    """A handler that took too long."""


class Threads:
    """Runs synchronous handlers, each in a thread of its own.

    The threads are daemons: a handler that hangs keeps no other from running and does not hold up the end of the
    process. A thread can't be killed, so those that were given up are counted.
    """

    def __init__(self) -> None:
        self._abandoned: list[threading.Thread] = []

    @property
    def hung(self) -> int:
        """How many threads still run although nobody waits for them any more."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        return len(self._abandoned)

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread; what it raises is raised here, SystemExit included."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(cast("T", result))
            else:
                done.set_exception(error)

        def target() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = context.run(work)
            except StopIteration as raised:  # no future takes it
                error = RuntimeError(f"the handler raised StopIteration: {raised}")
            except BaseException as raised:  # noqa: BLE001 - it is raised where the result is awaited
                error = raised
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, result, error)

        thread = threading.Thread(target=target, name="job", daemon=True)
        thread.start()
        try:
            return await done
        except asyncio.CancelledError:
            self._abandoned.append(thread)
            raise


async def call(handler: Handler, job: Job, threads: Threads, timeout: float | None = None) -> object:  # noqa: ASYNC109
    """Run a handler: in the event loop if it is asynchronous, else in a thread. Returns what it returned.

    After `timeout` seconds an asynchronous handler is cancelled, a thread is left to itself, and HandlerTimeoutError is
    raised.
    """
    try:
        async with asyncio.timeout(timeout) as limit:
            work: Callable[[], object] = partial(handler, job)
            answer = work() if inspect.iscoroutinefunction(handler) else await threads.run(work)
            if inspect.isawaitable(answer):  # also of a plain function that returns a coroutine, such as a lambda
                answer = await answer
            return answer
    except TimeoutError:
        if limit.expired():
            raise HandlerTimeoutError(f"took longer than {timeout:g} s") from None
        raise


def command(
    argv: Sequence[str], *, answers: bool = False, backoff: float = 30.0, pass_env: Collection[str] = ()
) -> Callable[[Job], Awaitable[bytes | None]]:
    """Return a handler that runs a command per job: the payload on its stdin, what else is known in its environment.

    GATE_SERVICE, GATE_ID, GATE_KEY, GATE_ATTEMPT, and GATE_HEADER_<NAME> per header, upper case with `_` for what is
    no letter or digit. Bytes that are no UTF-8 arrive unchanged. With `answers`, what it prints is the job's result.
    Exit code 75 (EX_TEMPFAIL of sysexits.h) asks to leave the service alone for `backoff` seconds. The command is
    killed with its children when it takes too long or the worker has to stop at once.
    """

    async def run(job: Job) -> bytes | None:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if answers else None,
            env=without_secrets(os.environ, pass_env) | _environment(job),
            process_group=0,  # Ctrl-C is for the worker, which lets its commands finish
        )
        try:
            answer, _ = await process.communicate(job.value or b"")
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode == os.EX_TEMPFAIL:
            raise Backoff(backoff, f"{argv[0]} exited with {os.EX_TEMPFAIL}")
        if code := process.returncode:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
            raise CommandError(f"{argv[0]} {how}")
        return answer

    return run


def without_secrets(environment: Mapping[str, str], keep: Collection[str] = ()) -> dict[str, str]:
    """Return the environment without the gate's secrets: a job has its own, and need not know those of its worker."""
    return {name: value for name, value in environment.items() if name in keep or not _SECRET.fullmatch(name)}


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
