"""An asyncio event loop whose time is simulated: it jumps to the next timer, so an idle day costs nothing.

No socket, no thread and no clock of the machine takes part; what runs on it runs the same way each time. Code of
several simulated processes shares the loop. Each runs in a context of its own, by which all of it can be stopped in its
tracks (SIGSTOP), continued (SIGCONT) or ended (SIGKILL).
"""

import asyncio
import heapq
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

ROUNDS = 100_000  # a run takes some thousand, and in a hundred seeds 24,000 at most

OWNER: ContextVar["Process | None"] = ContextVar("owner", default=None)


class DeadlockError(Exception):
    """Everything waits, and nothing will ever come."""


class LivelockError(Exception):
    """Far more happens than there is a reason for."""


class _Jump:
    """The loop's selector: nothing arrives from outside, so waiting is a jump in time."""

    def __init__(self, loop: "SimLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        loop = self._loop
        loop.left -= 1
        if loop.left < 0:
            raise LivelockError(f"it never comes to rest; now at {loop.now:.3f}")
        if loop.freezing:  # here, as nowhere else, the loop is not going through its handles
            for process in loop.freezing:
                process.held = loop.take(process)
            loop.freezing = []
        elif timeout is None:
            raise DeadlockError("nothing is ready and no timer is set")
        else:
            loop.now += max(0.0, timeout)
        return []


class Process:
    """The tasks and timers that belong to one simulated process."""

    def __init__(self, loop: "SimLoop", name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.tasks: dict[asyncio.Task[Any], None] = {}  # ordered, unlike a set
        self.held: list[asyncio.Handle] = []  # what would have run meanwhile
        self._loop = loop
        self.context: Context = copy_context()
        self.context.run(OWNER.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as part of the process."""
        return self._loop.create_task(work, context=self.context)

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function soon, as part of the process."""
        if not self.dead:
            self._loop.call_soon(function, *args, context=self.context)

    def freeze(self) -> None:
        """Stop it as SIGSTOP does: nothing of it runs, its timers become overdue."""
        if not self.frozen and not self.dead and self not in self._loop.freezing:
            self._loop.freezing.append(self)

    def thaw(self) -> None:
        """Continue it as SIGCONT does."""
        if self in self._loop.freezing:
            self._loop.freezing.remove(self)
        if self.frozen:
            self.frozen = False
            self._loop.frozen -= 1
            self._loop.give(self.held)
            self.held = []

    def kill(self) -> None:
        """End it as SIGKILL does. `dead` cuts it off from the world, so what its tasks do when cancelled counts not."""
        self.dead = True
        self.thaw()
        for task in list(self.tasks):
            task.cancel()


class SimLoop(BaseEventLoop):
    """Starts at time 0, and goes around at most `ROUNDS` times."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.left = ROUNDS
        self.frozen = 0  # number of frozen processes
        self.freezing: list[Process] = []
        self._selector = _Jump(self)
        self._clock_resolution = 1e-6
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        if self.frozen and (owner := handle._context.get(OWNER)) is not None and owner.frozen:
            self._ready.pop()
            owner.held.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        if self.frozen and (owner := handle._context.get(OWNER)) is not None and owner.frozen:
            self._scheduled.remove(handle)
            heapq.heapify(self._scheduled)
            handle._scheduled = False
            owner.held.append(handle)
        return handle

    def take(self, owner: Process) -> list[asyncio.Handle]:
        """Take away all that is scheduled for a process, now and from now on."""
        owner.frozen = True
        self.frozen += 1
        mine = [h for h in (*self._ready, *sorted(self._scheduled)) if h._context.get(OWNER) is owner]
        taken = set(map(id, mine))
        self._ready = type(self._ready)(h for h in self._ready if id(h) not in taken)
        self._scheduled = [h for h in self._scheduled if id(h) not in taken]
        heapq.heapify(self._scheduled)
        for handle in mine:
            if isinstance(handle, asyncio.TimerHandle):
                handle._scheduled = False
        return mine

    def give(self, handles: list[asyncio.Handle]) -> None:
        """Schedule what was taken."""
        for handle in handles:
            if handle._cancelled:
                continue
            if isinstance(handle, asyncio.TimerHandle):
                handle._scheduled = True
                heapq.heappush(self._scheduled, handle)
            else:
                self._ready.append(handle)

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], context: Context | None = None
) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, context=context)
    owner = context.get(OWNER) if context is not None else OWNER.get()
    if owner is not None:
        owner.tasks[task] = None
        task.add_done_callback(owner.tasks.pop)
    return task


def run(main: Callable[[SimLoop], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on a new simulated loop to its end, and end what it left behind."""
    loop = SimLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(loop))
    finally:
        loop.left = ROUNDS
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
