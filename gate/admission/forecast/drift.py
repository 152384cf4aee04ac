"""Drift of a forecast from what happens: it is made for limits that are never idle, and after a stall they were.

Who comes late to a bucket that is full meanwhile, or to a window, delays all behind it. The forecast is then made anew
from what the limiters hold, request by request; a bucket of credit bounds what that takes where all come late all the
time.
"""

from collections.abc import Sequence
from typing import Final

from gate.admission.limits.service import is_full
from gate.admission.model import SECOND
from gate.admission.state import AnchorRecord
from gate.limits import Limiter

REPLAY: Final = 20_000  # parked requests that are forecast anew at once, about 1 us each; for more, places are counted
_REPLAY_RATE: Final = 4_000  # of them per second in the long run
_FREE: Final = 1_000  # no more work than counting their places
_TOLERANCE: Final = 1_000  # a forecast that is off by a smaller part of its length is kept until there is credit


class Drift:
    """When the next of what waits could have gone, and how far the forecast of all that waits has come off since."""

    __slots__ = ("_at", "_credit", "_late", "_lost", "_since", "due", "stale", "wrong")

    def __init__(self) -> None:
        self.due: int | None = None  # None: nothing waited after the last step
        self.stale = False  # the forecast is off by a little
        self.wrong = False  # by so much that nobody is to be told of it
        self._since = 0  # when the forecast was made
        self._late = 0  # how late the step at hand is
        self._lost = 0  # time in which buckets were full
        self._credit = REPLAY
        self._at = 0

    def made(self, now: int) -> None:
        """Begin anew: there is a new forecast, or none."""
        self._since, self._late, self._lost = now, 0, 0
        self.stale = self.wrong = False

    def notice(self, now: int, limiters: Sequence[Limiter], end: int) -> None:
        """Begin a step, before anything is admitted: see whether what is due comes late. The forecast ends at `end`."""
        self._credit = min(REPLAY, self._credit + (now - self._at) * _REPLAY_RATE // SECOND)
        self._at = now
        self._late = 0
        if self.due is None or now <= max(self.due, self._since):
            return
        late = now - max(self.due, self._since)
        if any(is_full(limiter, now) for limiter in limiters):
            self._late = late
        elif not any(limiter.spec.counted for limiter in limiters):
            return
        self.stale = True
        self.wrong |= (self._lost + self._late) * _TOLERANCE > end - now or any(
            limit.is_off(now - late, now) for limiter in limiters for limit in limiter.spec.counted
        )

    def stepped(self, now: int, due: int | None, *, admitted: bool) -> None:
        """End a step: the next of what waits can go at `due`, unless more than the limits holds it back."""
        if admitted:
            self._lost += self._late
        elif self.due is not None and due is not None and self.due < due <= now:
            return  # it could have gone before: something else than the limits holds it back
        self.due = due

    def record(self) -> AnchorRecord:
        """Return what is kept."""
        return AnchorRecord(self.due, self._since, self._lost, self._credit, self._at, self.stale, self.wrong)

    def restore(self, record: AnchorRecord) -> None:
        """Take what was kept."""
        self.due, self._since, self._lost, self._credit = record.due, record.since, record.lost, record.credit
        self._at, self.stale, self.wrong = record.at, record.stale, record.wrong

    def affords(self, requests: int) -> bool:
        """Tell whether so many requests may be forecast anew now, and pay for it."""
        if requests <= _FREE:
            return True
        if requests > self._credit:
            return False
        self._credit -= requests
        return True
