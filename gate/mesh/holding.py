# ruff: noqa: SLF001 - the usual decision is fused: it works on the part's state itself
"""What a holder has of one budget, and what it must tell of it."""

from collections import deque
from dataclasses import dataclass
from math import isqrt
from typing import Final, cast

from gate.limits.checks import check_cost
from gate.limits.part import Part, PartSpec, PartWindow
from gate.mesh.terms import NANO, longer, slower
from gate.mesh.wire import NONE, BudgetReport, Limits, Run, Share
from gate.units import MS, SECOND

MOST_COUNTED: Final = 2**50  # of units that are told: an owner hears nothing of larger numbers, and none is of use
_GRAIN: Final = 50 * MS  # uses that are this close are told as one
MILLI: Final = 1000  # wants are in units per 1,000 s
_EXACT_BITS: Final = 5  # of a want: small changes are not worth a record
_SIGMAS: Final = 3  # by which a load that stays as it is hardly ever differs from its average
_FEW: Final = 2
_SMOOTH: Final = 4  # periods that an average is over


@dataclass(slots=True)
class Use:
    """Granted units up to a position, which were used until a time, or not at all."""

    position: int
    at: int | None  # None: given back
    seq: int = 0  # of the first report that told it; 0: none yet


class Holding:
    """Part and granted units of one budget.

    Granted units are numbered: those up to `consumed` are used or given back, those up to `open` may be used.
    """

    __slots__ = (
        "_average",
        "alone",
        "alone_sent",
        "changed",
        "consumed",
        "decides_until",
        "floor",
        "fresh",
        "fresh_until",
        "granted",
        "granting",
        "limits",
        "live",
        "name",
        "open",
        "part",
        "quick_until",
        "sent",
        "shrunk",
        "starts",
        "stock",
        "told",
        "used_at",
        "uses",
        "version",
        "waiting",
        "want",
        "wanted",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.part: Part | None = None
        self.limits: Limits | None = None
        self.granting = False  # whether some limits are granted from, beside the part
        self.decides_until = 0  # until when it decides by itself: by the part and, where granting, the granted units
        self.live = False  # whether its version was applied in the lease that runs
        self.version = 0  # of the newest share applied, also in an earlier lease
        self.granted = self.consumed = self.open = 0
        self.starts: deque[tuple[int, int]] = deque()  # (position, from when on)
        self.stock = 0
        self.uses: deque[Use] = deque()  # not yet acknowledged
        self.fresh_until = -1  # until when a use is told with the last one,
        self.fresh = Use(0, None)  # which is this, as `settle` leaves it
        self.used_at = 0  # when the newest of it was used
        self.quick_until = -1  # until when a bucket and units that are open say all: at most as long as uses join it
        self.wanted = 0  # units that were asked for since the last period
        self.waiting = 0  # units that wait in the queue
        self.want = 0  # as told to the owner: units per 1,000 s
        self._average = 0
        self.changed = False  # since it was last told
        self.shrunk = False  # and became smaller
        self.floor: tuple[int, PartSpec, Part | None] | None = None  # halvings, the last part, one of the granted units
        self.sent = 0  # seq of the report that told it last
        self.alone = (0, 0)  # units that were let go, and refused, without an owner
        self.alone_sent = (0, (0, 0))  # the newest report that told that, and what it told
        self.told = (0, 0)  # what of that was heard

    def unopened(self, now: int, cost: int) -> bool:
        """Tell whether there are fewer granted units than `cost` that may be used now."""
        starts = self.starts
        while starts and starts[0][1] <= now:
            self.open = max(self.open, starts.popleft()[0])
        return self.open - self.consumed < cost

    def left(self, now: int) -> int:
        """Return the units that may be used now."""
        rooms = []
        if self.part is not None:
            spec = self.part.spec
            counts = zip(spec.windows, self.part.counted(now), strict=True)
            rooms = [window.limit - count for window, count in counts]
            if spec.step:
                rooms.append(int(self.part.tokens(now)))
        if self.granting:
            self.unopened(now, 1)
            rooms.append(self.open - self.consumed)
        return max(0, min(rooms, default=0))

    def take(self, now: int, cost: int) -> bool:
        """Charge a call to the part and the granted units, if it fits; `decides_until` must not be past.

        What is usual is `Limiter.try_take` without windows, fused. It leaves the rest to `settle`.
        """
        part = self.part
        if now <= self.quick_until and cost.__class__ is int and 0 < cost <= self.open - self.consumed:
            spec, full = part.spec, part._full  # type: ignore[union-attr]
            start = now * spec.scale
            if full < start:  # noqa: PLR1730 - max() takes thrice the time
                full = start
            full += cost * spec.step
            if full <= start + spec.depth and now >= part.last:  # type: ignore[union-attr]
                part._full = full  # type: ignore[union-attr]
                part.last = self.used_at = now  # type: ignore[union-attr]
                self.consumed += cost
                return True
        check_cost(cost)
        if (self.starts or self.open - self.consumed < cost) and self.unopened(now, cost):
            return False
        if part.try_take(now, cost) is not None:  # type: ignore[union-attr]
            return False
        self.wanted += cost
        self.use(now, cost)
        return True

    def charge(self, now: int, units: int) -> None:
        """Charge what fits."""
        if self.part is not None:
            self.part.charge(now, units)
        if self.granting:
            self.use(now, units)

    def use(self, now: int, units: int) -> None:
        """Use granted units."""
        self.settle()
        self.consumed += units
        self.used_at = now
        if now <= self.fresh_until:
            self._join()
        else:
            self.fresh = Use(self.consumed, now)
            self.uses.append(self.fresh)
            self.fresh_until = now + _GRAIN
            self.changed = True
            if self.part is not None and not self.part.spec.windows and not self.starts:
                self.quick_until = self.fresh_until

    def settle(self) -> None:
        """Note what was charged in the quick way since."""
        if self.quick_until >= 0:
            self.wanted += self.consumed - self.fresh.position
            self._join()

    def _join(self) -> None:
        """Tell what was used since the last use began as one with it."""
        self.fresh.position, self.fresh.at = self.consumed, self.used_at

    def _close(self) -> None:
        """Have no use join the last one any more."""
        self.settle()
        self.fresh_until = self.quick_until = -1

    def go_alone(self, units: int, *, allowed: bool) -> None:
        """Note what became of a call without an owner."""
        let_go, refused = self.alone
        let_go, refused = (let_go + units, refused) if allowed else (let_go, refused + units)
        self.alone = min(let_go, MOST_COUNTED), min(refused, MOST_COUNTED)
        self.changed = True

    def give_back(self, units: int) -> None:
        """Give up granted units that were not used."""
        if units > 0:
            self._close()
            self.consumed += units
            self.open = max(self.open, self.consumed)
            self.uses.append(Use(self.consumed, None))
            self.changed = True

    def lapse(self) -> None:
        """Give up all but the counts: the owner may give it to others from now on."""
        self.live, self.decides_until = False, 0
        self._close()
        self.give_back(self.granted - self.consumed)
        self.starts.clear()
        self.changed = True

    def apply(self, share: Share, now: int) -> bool:
        """Go over to a newer share; tell whether anything of it became smaller."""
        self._close()
        limits = share.limits
        nano = None if limits.rate == NONE else slower(share.rate)
        sizes = tuple([longer(size) for size in limits.sizes])
        part, shrunk = self.part, False
        if part is None or self.limits is None or (self.limits.rate == NONE) != (nano is None):
            fresh = Part(self._spec(nano, share, sizes), now)
            if part is not None:
                part.reconfigure(fresh.spec, now)
                part.empty(now)
            else:
                self.part = fresh
        else:
            old = part.spec
            shrunk = share.burst < old.burst or (nano or 0) < old.scale
            if sizes == tuple([window.size for window in old.windows]):
                limit_pairs = zip(share.windows, old.windows, strict=True)
                shrunk = shrunk or any(limit < window.limit for limit, window in limit_pairs)
                part.resize(now, nano, share.burst, share.windows)
            else:
                shrunk = True
                part.reconfigure(self._spec(nano, share, sizes), now)
        if not self.live and self.part is not None:
            self.part.empty(now)
        self.floor = None
        self._take_grant(share, now)
        self.shrunk = self.shrunk or shrunk
        self.limits, self.granting = limits, limits.granted
        self.version, self.live, self.changed = share.version, True, True
        return shrunk

    def news(self, answered: int, *, periodic: bool) -> bool:
        """Tell whether there is anything to tell: at once what became smaller or was not answered, else by the period.

        Units that are wanted still are asked for with each period.
        """
        if self.shrunk or self.sent > answered:
            return True
        return periodic and (self.changed or bool(self.uses) or (self.granting and self.want > 0))

    def floors(self, now: int, halvings: int, stock_ns: int) -> list[Part]:
        """Return what it goes on with while there is no owner: its last part, and what it was granted, halved so often.

        What is used by it counts in the windows of the part, as ever.
        """
        part = self.part
        if part is None or self.limits is None:
            return []
        if self.floor is None:
            grants = None
            if self.granting:
                nano = self.stock * SECOND * NANO // stock_ns
                grants = Part(PartSpec.of(nano, max(1, self.stock), ()), now)
            self.floor = -1, cast("PartSpec", part.spec), grants
        done, last, grants = self.floor
        if halvings > done:
            self.floor = halvings, last, grants
            limits = tuple([window.limit >> halvings for window in last.windows])
            part.resize(now, None if last.nano is None else last.nano >> halvings, last.burst, limits)
            if grants is not None:
                spec = cast("PartSpec", grants.spec)
                grants.resize(now, (spec.nano or 0) >> min(halvings, 1), spec.burst, ())
        return [part] if grants is None else [part, grants]

    def report(self, now: int, seq: int) -> BudgetReport:
        """Tell all that was not yet acknowledged."""
        self._close()  # what is told stays as it was told
        for use in self.uses:
            use.seq = use.seq or seq
        runs = tuple([Run(use.position, NONE if use.at is None else max(0, now - use.at)) for use in self.uses])
        self.changed, self.shrunk, self.sent = False, False, seq
        version = self.version if self.live else 0
        counts = self.part.counted(now) if self.part is not None else ()
        if self.alone != self.told:
            self.alone_sent = seq, self.alone
        alone = self.alone if any(self.alone) else None
        told = self.told if any(self.told) else None
        return BudgetReport(self.name, version, self.want, self.consumed, counts, runs, alone, told)

    def answered(self, seq: int) -> None:
        """Forget what a report told that was answered."""
        while self.uses and 0 < self.uses[0].seq <= seq:
            self.uses.popleft()
        if 0 < self.alone_sent[0] <= seq:
            self.alone_sent, self.told = (0, self.told), self.alone_sent[1]

    def measure(self, elapsed: int, period: int, stock_ns: int) -> None:
        """End a period: take what was wanted in it for the want of the next, and give back what is more than it."""
        self.settle()
        elapsed = max(1, elapsed)
        wanted = self.wanted + self.waiting * elapsed // period
        expected = self._average * elapsed // (MILLI * SECOND)
        rate = wanted * MILLI * SECOND // elapsed
        if abs(wanted - expected) > _SIGMAS * isqrt(expected) + _FEW:  # no chance: it is another load
            self._average = rate
        else:
            self._average += (rate - self._average) // _SMOOTH
        self.wanted = 0
        want = min(_rounded(self._average), MOST_COUNTED)
        if want != self.want:
            self.want, self.changed = want, True
        if self.granted > self.consumed:
            keep = -(-self.want * stock_ns // (MILLI * SECOND))
            surplus = self.granted - self.consumed - keep
            if surplus * 4 > keep + 4:
                self.give_back(surplus)

    def _take_grant(self, share: Share, now: int) -> None:
        self.granted = max(self.granted, share.granted)
        self.stock = share.stock
        self.starts = deque([(position, now + longer(wait)) for position, wait in share.starts if position > self.open])
        if not share.starts:
            self.open = max(self.open, share.granted)
        elif not share.starts[0][1]:
            self.open = max(self.open, share.starts[0][0])
        self.give_back(share.void - self.consumed)

    @staticmethod
    def _spec(nano: int | None, share: Share, sizes: tuple[int, ...]) -> PartSpec:
        windows = tuple([PartWindow(limit, size) for limit, size in zip(share.windows, sizes, strict=True)])
        return PartSpec.of(nano, share.burst, windows)


def _rounded(want: int) -> int:
    shift = max(0, want.bit_length() - _EXACT_BITS)
    return (want + (1 << shift >> 1) >> shift) << shift
