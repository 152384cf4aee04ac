"""Limit as a protocol: what a bucket, a sliding window and a calendar quota have in common.

A new kind is a frozen `Limit`, which describes itself in policies, usage, metrics and stamps, and a `Counter`, which a
`Limiter` charges together with the others. The bucket and the first window are fused into the limiter, for speed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from gate.limits.codec import Reader, Writer
from gate.units import Ns


class Limit(Protocol):
    """One limit of a `Spec`: frozen, and equal to another one that means the same."""

    @property
    def reason(self) -> str:
        """Why a request waits for it, as stamped."""

    @property
    def name(self) -> str:
        """What it is called behind the name of its service, tenant or group; several of one name count as one."""

    @property
    def capacity(self) -> int:
        """The most units that it gives at once, and so the largest cost that it can ever admit."""

    @property
    def per_second(self) -> float:
        """Units per second in the long run."""

    def words(self, spell_rate: Callable[[Any], str], spell_duration: Callable[[int], str]) -> str:
        """Say in a few words what it allows."""


class Counted(Limit, Protocol):
    """A limit that counts what came: all but the bucket."""

    @property
    def encoded(self) -> bytes:
        """As it is kept."""

    def again(self, time: int, rounds: int) -> int:
        """Return when it lets in so many times its capacity more than at `time`, if it is never idle."""

    def is_off(self, due: int, now: int) -> bool:
        """Tell whether a time is far from true that was told to somebody behind who was due at `due` and comes now."""


class Fill(NamedTuple):
    """How full a limit is at one moment."""

    limit: Limit
    share: float  # 0..1 of its capacity; above 1 where it was charged without asking, or lowered since
    left: int | None = None  # units until it renews; None: it gives all the time
    renews_at: Ns | None = None


class Counter(Protocol):
    """What one limit counts. Times never step back; the limiter sees to that."""

    def _room(self, now: int) -> int:
        """Return how many units fit now; below 0 where it was charged without asking, or lowered."""

    def _add(self, now: int, units: int) -> None:
        """Count `units`, whether they fit or not."""

    def _add_each(self, times: Sequence[int], cost: int) -> None:
        """Count `cost` at each of `times`, in order."""

    def _opens_at(self, now: int, units: int) -> int:
        """Return the earliest time from `now` on at which `units` fit if nothing else comes; NEVER if none does."""

    def _counted(self, now: int) -> int:
        """Return the units that count now."""

    def _renews_at(self, now: int) -> int | None:
        """Return when all that counts stops counting at once; None: it does not."""

    def _empty(self, now: int) -> bool:
        """Tell whether nothing counts."""

    def _empties_at(self) -> int:
        """Return from when on nothing counts if nothing else comes."""

    def _since(self, horizon: int) -> int:
        """Return the units that are known to have come after `horizon`, at most."""

    def _look_ahead(self) -> None:
        """Go over to what is kept where many are promised their times."""

    def _follow(self, ahead: Any) -> bool:
        """Keep what a copy promises that was charged ahead; tell whether that changed anything."""

    def _adopt(self, other: Any, now: int) -> None:
        """Count what another counter of this kind counts."""

    def _write(self, out: Writer, last: int) -> None:
        """Write the limit and all that counts."""

    def _read(self, source: Reader, last: int) -> None:
        """Read what follows on the limit into this new counter."""

    def _copy(self) -> "Counter":
        """Return an independent copy."""
