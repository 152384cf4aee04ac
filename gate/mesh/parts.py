"""Parts of a bucket and of short windows: what is out, what the owner keeps for itself, and what is free."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from gate.limits import NEVER, Spec
from gate.mesh.division import fill, parts
from gate.mesh.held import Held, Key, Rest, Shape
from gate.mesh.ledger import Account, Ledger
from gate.mesh.terms import NANO, Terms, longer, slower
from gate.units import SECOND

MILLI: Final = 1000  # wants and flows are in units per 1,000 s
_SLACK: Final = 8  # an n-th more than its want is enough for a holder
_SPARE: Final = 200  # an n-th is kept for who comes new, where that is a unit


class Parts:
    """Divides a bucket and short windows: what all may be using, with the owner's own part, is at most the whole.

    Requests in topics and direct requests are charged to the owner's own part.
    """

    def __init__(self, spec: Spec, now: int, terms: Terms) -> None:
        self.terms = terms
        self.rests: list[Rest] = []
        self.crowded = 0  # units of the smallest part, where some who want have none in this turn
        self._turn = -1
        self._compile(spec)
        self._kept: dict[Key, Shape] = {}  # what is reserved for each holder
        self._sums = list(self.nothing)  # of these
        self._lingering: dict[Key, Held] = {}  # for whom less may be reserved as time passes, with no word of theirs
        self._expiry = NEVER  # before which less is reserved for none of them
        self._unsettled: dict[Key, Held] = {}  # who have other parts than they are to have
        self.own = self.own_target = self.whole
        self.account = Account(now, slower(self.whole[0]), self.whole[1], tokens=True)
        self.windows = [Ledger(limit, longer(size)) for limit, size in zip(self.whole[2:], self.sizes, strict=True)]

    def _compile(self, spec: Spec) -> None:
        short = [window for window in spec.windows if window.size <= self.terms.short_ns]
        self.sizes = tuple([window.size for window in short])
        self.bucket = spec.rate is not None
        nano = int(spec.rate * NANO) if spec.rate is not None else 0
        self.whole: Shape = (nano, spec.burst if self.bucket else 0, *[window.limit for window in short])
        self.nothing: Shape = (0,) * len(self.whole)

    def reconfigure(self, now: int, spec: Spec, holders: Collection[Held]) -> None:
        """Go over to other limits: what stays stays counted, what is new starts empty."""
        sizes, bucket = self.sizes, self.bucket
        self._turn = -1
        ledgers = {ledger.size: ledger for ledger in self.windows}
        self._compile(spec)

        def carried(shape: Shape) -> Shape:
            known = dict(zip(sizes, shape[2:], strict=True))
            return (*shape[:2], *[known.get(size, 0) for size in self.sizes])

        self._kept.clear()
        self._lingering.clear()
        self._unsettled.clear()
        self._sums = list(self.nothing)
        for held in holders:
            held.counts = held.counts_until = ()
            held.acked, held.target = carried(held.acked), carried(held.target)
            held.pending = [(sent, carried(shape)) for sent, shape in held.pending]
            self.note(now, held)
        places = {size: place for place, size in enumerate(self.sizes)}
        kept = [rest for rest in self.rests if sizes[rest.window] in places]
        self.rests = [rest._replace(window=places[sizes[rest.window]]) for rest in kept]
        own = carried(self.own)
        if self.bucket and not bucket:
            self.account = Account(now, 0, 0)
            own = (0, 0, *own[2:])
        self.windows = [ledgers.get(longer(size)) or Ledger(0, longer(size)) for size in self.sizes]
        self.own_target = tuple(map(min, own, self.whole))
        self.set_own(now, self.own_target)
        for ledger in self.windows:
            ledger.slide = None

    def note(self, now: int, held: Held) -> None:
        """Take in that a holder has another part, or has told what counts of it."""
        before, kept = self._kept.get(held.key, self.nothing), held.reserved(now)
        if kept != before:
            self._kept[held.key] = kept
            self._sums = [total + new - old for total, new, old in zip(self._sums, kept, before, strict=True)]
        if self.sizes and kept != held.acked and (until := held.lingers_until(now)):
            self._lingering[held.key] = held
            self._expiry = min(self._expiry, until)
        else:
            self._lingering.pop(held.key, None)
        if held.shape != held.target:
            self._unsettled[held.key] = held

    def forget(self, held: Held) -> None:
        """Reserve nothing for a holder any more: it is gone."""
        self._lingering.pop(held.key, None)
        self._unsettled.pop(held.key, None)
        kept = self._kept.pop(held.key, self.nothing)
        self._sums = [total - units for total, units in zip(self._sums, kept, strict=True)]

    def divide(self, now: int, big: int, own: int, wants: Sequence[int]) -> list[Shape] | None:
        """Return the parts of the owner and of each holder by what they want; None: they would be too small.

        `big` is the dearest call that needs the owner's own part.
        """
        weights = fill(self.flow, [want + want // 20 for want in (own, *wants)])
        turn = now // self.terms.turn_ns
        self.crowded = 0
        if not big:
            least = self._spare()
            targets = parts(_minus(self.whole, least), weights, turn)
            self._note(targets, weights)
            targets[0] = tuple(map(sum, zip(targets[0], least, strict=True)))
            return targets
        mine = [limit * weights[0] // max(1, sum(weights)) for limit in self.whole]
        kept = (mine[0], *[min(limit, max(big, units)) for limit, units in zip(self.whole[1:], mine[1:], strict=True)])
        rest = _minus(self.whole, kept)
        if any(limit and not left for limit, left in zip(self.whole, rest, strict=True)):
            return None
        targets = parts(rest, weights[1:], turn)
        self._note(targets, weights[1:])
        return [kept, *targets]

    def rest(self, holders: Sequence[Held], big: int) -> list[Shape] | None:
        """Return the parts where nobody wants any, so that each may keep what he has; None: what is left is too little.

        `big` is the dearest call that needs the owner's own part.
        """
        left = self.whole
        for held in holders:
            left = _less(left, self.nothing, held.shape)
        if left[0] < 0 or any(whole and units < big for units, whole in zip(left[1:], self.whole[1:], strict=True)):
            return None
        return [left, *[self.nothing] * len(holders)]

    def _note(self, targets: Sequence[Shape], weights: Sequence[int]) -> None:
        """Note whether there was too little for all."""
        if any(weight and not any(target) for target, weight in zip(targets, weights, strict=True)):
            self.crowded = min((min(filter(None, target[1:])) for target in targets if any(target)), default=0)

    def _spare(self) -> Shape:
        """Return what is kept for who comes new."""
        spare = tuple([limit // _SPARE for limit in self.whole])
        return spare if all(units for units, limit in zip(spare, self.whole, strict=True) if limit) else self.nothing

    def aim(self, now: int, holders: Sequence[Held], targets: Sequence[Shape]) -> None:
        """Set what the owner and each holder are to have: in each turn their targets, and else as little new as may be.

        Who has enough keeps what he has, unless somebody who has not needs it; so does who wants nothing now.
        """
        self.own_target = targets[0]
        self._aim(now, holders, targets)
        self._unsettled = {held.key: held for held in holders if held.shape != held.target}

    def _aim(self, now: int, holders: Sequence[Held], targets: Sequence[Shape]) -> None:
        turn, self._turn = self._turn, now // self.terms.turn_ns
        rows = [(held, held.shape, target) for held, target in zip(holders, targets[1:], strict=True)]
        lacks = [max(0, unit - mine) for unit, mine in zip(self.own_target, self.own, strict=True)]
        content: list[tuple[Held, Shape, Shape]] = []
        suffices = min(self.free(now)) >= 0  # else the limit was lowered
        for row in rows:
            held, shape, target = row
            if (turn == self._turn and any(target) and self._is_enough(shape, held.want)) or (
                suffices and not held.want
            ):
                held.target = shape
                content.append(row)
            else:
                held.target = target
                lacks = [lack + unit - mine for lack, unit, mine in zip(lacks, target, shape, strict=True)]
        if not content:
            return
        own = tuple(map(min, self.own, self.own_target))
        free = _less(self.free(now), self.own, own)
        lacks = [lack - max(0, left) for lack, left in zip(lacks, free, strict=True)]
        if max(lacks) <= 0:
            return
        for held, shape, target in sorted(content, key=lambda row: row[2][0] - row[1][0]):
            held.target = tuple(map(min, shape, target))
            lacks = [lack - mine + unit for lack, mine, unit in zip(lacks, shape, held.target, strict=True)]
            if max(lacks) <= 0:
                break

    def _is_enough(self, shape: Shape, want: int) -> bool:
        want += want // _SLACK
        if not want:
            return True
        if self.bucket and (not shape[1] or shape[0] * MILLI < want * NANO):
            return False
        for units, size in zip(shape[2:], self.sizes, strict=True):  # noqa: SIM110 - all() takes thrice the time
            if units * MILLI * SECOND < want * size:
                return False
        return True

    @property
    def flow(self) -> int:
        """Return what bucket and short windows yield, in units per 1,000 s."""
        flows = [limit * MILLI * SECOND // size for limit, size in zip(self.whole[2:], self.sizes, strict=True)]
        if self.bucket:
            flows.append(self.whole[0] * MILLI // NANO)
        return max(1, min(flows, default=1))

    def move(self, now: int, version: Iterator[int], *, keen: bool) -> dict[Key, Held]:
        """Recall what is more than the target, then give what is free; return those to whom there is news.

        `keen`: the owner's own part comes first.
        """
        told: dict[Key, Held] = {}
        if not self._unsettled and self.own == self.own_target:
            return told
        unsettled = list(self._unsettled.values())
        for held in unsettled:
            self._resize(now, held, tuple(map(min, held.shape, held.target)), version, told)
        self._lower_own(now)
        free = self.free(now)
        if keen:
            free = self._grow_own(now, free)
        for held in unsettled:
            if held.shape == held.target:
                continue
            reserved = held.reserved(now)
            places = zip(held.shape, held.target, reserved, free, strict=True)
            shape = tuple([max(mine, min(target, kept + max(0, left))) for mine, target, kept, left in places])
            if all(units for units, whole in zip(shape[1:], self.whole[1:], strict=True) if whole):
                self._resize(now, held, shape, version, told)
                free = _less(free, reserved, held.reserved(now))
        self._unsettled = {held.key: held for held in unsettled if held.shape != held.target}
        self._grow_own(now, free)
        return told

    def free(self, now: int) -> Shape:
        """Return what of each limit nobody may be using; below 0 where the limit was lowered."""
        if now >= self._expiry:
            self._expiry = NEVER
            for held in list(self._lingering.values()):
                self.note(now, held)
        sums = [limit - units for limit, units in zip(self.whole, self._sums, strict=True)]
        for rest in self.rests:
            if now < rest.until:
                sums[2 + rest.window] -= rest.units
        counted = [ledger.counted for ledger in self.expired(now)]
        own = (*self.own[:2], *map(max, self.own[2:], counted))
        return tuple([left - units for left, units in zip(sums, own, strict=True)])

    def set_own(self, now: int, shape: Shape) -> None:
        """Resize the owner's own part: at once, for it is no message away."""
        self.own = shape
        self.account.resize(now, slower(shape[0]), shape[1])
        for ledger, limit in zip(self.windows, shape[2:], strict=True):
            ledger.limit = limit

    def end(self, now: int, held: Held, until: int, *, left: bool) -> None:
        """Keep what a holder that is gone has used in its windows until it no longer counts."""
        reserved = held.reserved(now if left else until)
        counts = held.counts if left and held.counts else reserved[2:]
        for number, (units, size) in enumerate(zip(counts, self.sizes, strict=True)):
            if units:
                self.rests.append(Rest(until + longer(longer(size)), number, units))

    def room(self, now: int) -> list[int]:
        """Return the units that each limit of the owner's own part has room for."""
        rooms = [ledger.room(now) for ledger in self.windows]
        return [self.account.room(now), *rooms] if self.bucket else rooms

    @property
    def slides(self) -> bool:
        """Tell whether the owner's own part becomes smaller as time passes."""
        return any(ledger.slide for ledger in self.windows)

    def full(self, now: int) -> bool:
        """Tell whether nothing that was charged to the owner's own part counts any more."""
        refilled = not self.bucket or self.account.full <= now * self.account.nano
        return refilled and not any(ledger.counted for ledger in self.expired(now))

    def charge(self, at: int, units: int) -> None:
        """Charge the owner's own part for a use until `at`."""
        if self.bucket:
            self.account.charge(at, units)
        for ledger in self.windows:
            ledger.add(at, units)

    def ready(self, now: int, units: int) -> list[int | None]:
        """Return when the owner's own part has so many, by each limit; None: not before it grows."""
        times: list[int | None] = [self.account.ready(now, units)] if self.bucket else []
        return times + [time for ledger in self.windows if (time := ledger.ready(now, units)) != now]

    def expired(self, now: int) -> list[Ledger]:
        """Return the ledgers of the owner's own part without what no longer counts."""
        for ledger in self.windows:
            ledger.expire(now)
        return self.windows

    def _lower_own(self, now: int) -> None:
        """Give up what is more than its target: of windows as what counts in them leaves room."""
        own = tuple(map(min, self.own, self.own_target))
        for place, ledger in enumerate(self.windows, 2):
            if own[place] < self.own[place]:
                own = (*own[:place], min(self.own[place], ledger.lower(now, own[place])), *own[place + 1 :])
            else:
                ledger.slide = None
        if own != self.own:
            self.set_own(now, own)

    def _grow_own(self, now: int, free: Shape) -> Shape:
        before = self.own
        places = zip(before, self.own_target, free, strict=True)
        own = tuple([max(mine, min(target, mine + max(0, left))) for mine, target, left in places])
        if own == before:
            return free
        self.set_own(now, own)
        return _less(free, before, self.own)

    def _resize(self, now: int, held: Held, shape: Shape, version: Iterator[int], told: dict[Key, Held]) -> None:
        if shape != held.shape:
            held.pending.append((next(version), shape))
            told[held.key] = held
            self.note(now, held)


def _minus(whole: Shape, part: Shape) -> Shape:
    return tuple([limit - units for limit, units in zip(whole, part, strict=True)])


def _less(free: Shape, before: Shape, after: Shape) -> Shape:
    return tuple([left - new + old for left, old, new in zip(free, before, after, strict=True)])
