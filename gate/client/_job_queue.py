"""The queue of jobs that a worker has taken and does not run yet."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from aiokafka.structs import TopicPartition

from gate.client._handlers import Job
from gate.client._offsets import Offsets


@dataclass(slots=True, eq=False)
class TakenJob:
    """A job, and where to note that it is done: `offsets` changes when its partition is taken anew."""

    job: Job
    partition: TopicPartition
    offsets: Offsets


class JobQueue:
    """Jobs in the order in which they may start. Services take turns.

    With `by_key`, of the jobs of a service with the same key only the oldest may run; those without a key need no
    order. A service can be paused: its jobs stay. `now` is in seconds of any clock that does not step.
    """

    def __init__(self, *, by_key: bool = False) -> None:
        self._by_key = by_key
        self._ready: dict[str, deque[TakenJob]] = {}  # by service; the first one's turn is next
        self._behind: dict[Hashable, deque[TakenJob]] = {}  # by key, behind one that is ready or runs
        self._running: set[Hashable] = set()
        self._paused: dict[str, float] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, taken: TakenJob) -> None:
        """Put a job at the end."""
        self._size += 1
        key = self._key(taken)
        if key is not None:
            if key in self._behind:
                self._behind[key].append(taken)
                return
            self._behind[key] = deque()
        self._ready.setdefault(taken.job.service, deque()).append(taken)

    def next(self, now: float) -> TakenJob | None:
        """Take out the job that may start; None: none may now."""
        service = next((service for service in self._ready if not self.is_paused(service, now)), None)
        if service is None:
            return None
        queue = self._ready.pop(service)
        taken = queue.popleft()
        if queue:
            self._ready[service] = queue  # behind the others
        self._size -= 1
        if (key := self._key(taken)) is not None:
            self._running.add(key)
        return taken

    def ended(self, taken: TakenJob) -> None:
        """Let the next job of the same key follow."""
        key = self._key(taken)
        if key is None:
            return
        self._running.discard(key)
        if behind := self._behind[key]:
            follower = behind.popleft()
            self._ready.setdefault(follower.job.service, deque()).append(follower)
        else:
            del self._behind[key]

    def clear(self) -> list[TakenJob]:
        """Take out all that does not run."""
        dropped = [taken for queue in (*self._ready.values(), *self._behind.values()) for taken in queue]
        self._ready.clear()
        self._behind = {key: deque() for key in self._running}
        self._size = 0
        return dropped

    def pause(self, service: str, until: float) -> None:
        """Let no job of a service start before `until`."""
        self._paused[service] = max(until, self._paused.get(service, until))

    def is_paused(self, service: str, now: float) -> bool:
        """Tell whether a service has to wait."""
        until = self._paused.get(service)
        if until is not None and until <= now:
            del self._paused[service]
            return False
        return until is not None

    def _key(self, taken: TakenJob) -> Hashable:
        job = taken.job
        return (job.service, job.key) if self._by_key and job.key is not None else None
