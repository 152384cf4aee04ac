"""Progress of a shard: failures count until its requests advance, whatever else is committed meanwhile."""

from collections.abc import Callable
from typing import Final

from gate.errors import reason_of
from gate.shard.environment import Observer
from gate.units import MS

RESTED: Final = 5_000 * MS  # ns without anything to do
LATELY: Final = 3_000 * MS  # ns


class Progress:
    """Counts the failures of one shard since its requests last advanced; `local` tells a monotonic time, ns."""

    def __init__(self, shard: int, observer: Observer, local: Callable[[], int]) -> None:
        self.failures = 0
        self.why = ""  # it failed last
        self._shard = shard
        self._observer = observer
        self._local = local
        self._stuck_since: int | None = None  # the first failure
        self._resting_since: int | None = None
        self._decided_at: int | None = None
        self._step: tuple[str, int] | None = None  # what is under way, and since when; None: it rests

    @property
    def stands(self) -> str | None:
        """Return what has been under way for seconds, and for how long; None: it goes on, or rests."""
        if self._step is None:
            return None
        what, since = self._step
        lasts = self._local() - since
        return f"{what}, for {lasts / 1e9:.1f} s" if lasts > LATELY else None

    def begins(self, step: str) -> None:
        """Take in what is begun; it ends with the next step, or when nothing is to do."""
        self._step = step, self._local()

    @property
    def has_decided_lately(self) -> bool:
        """Tell whether requests have been decided within the last seconds."""
        return self._decided_at is not None and self._local() - self._decided_at <= LATELY

    def decided(self) -> None:
        """Take in that requests have been decided."""
        self._decided_at = self._local()
        self.advanced()

    def failed(self, error: BaseException) -> None:
        """Count a failure."""
        self.failures += 1
        self.why = reason_of(error)
        if self._stuck_since is None:
            self._stuck_since = self._local()
        self._observer.failed(self._shard, error, self.failures, (self._local() - self._stuck_since) / 1e9)

    def advanced(self) -> None:
        """Take in that it goes on: requests have been decided, or none have come for a while."""
        if self.failures:
            self._observer.advances(self._shard)
        self.failures, self._stuck_since = 0, None

    def works(self) -> None:
        """Take in that requests are about to be decided, or a session ends."""
        self._resting_since = None

    def rests(self, delay: float | None) -> float | None:
        """Take in that no request is there for `delay` seconds (None: for ever); return for how long to wait.

        Some seconds of that are as good as progress: a shard that fails takes over in vain before it fails again.
        """
        now = self._local()
        self._step = None
        if self._resting_since is None:
            self._resting_since = now
        elif self.failures and now - self._resting_since > RESTED:
            self.advanced()
        if not self.failures:
            return delay
        return RESTED / 1e9 if delay is None else min(delay, RESTED / 1e9)
