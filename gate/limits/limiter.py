# ruff: noqa: SLF001 - a limiter is its own first window and looks into its further ones
"""Limiter of one key: a token bucket and further limits that are charged together or not at all."""

from fractions import Fraction
from typing import Final, Self

from gate.limits.checks import bad_time, check_amount, check_cost, check_count, shown
from gate.limits.codec import Reader, Writer, seal, unseal
from gate.limits.limit import Counter, Fill, Limit
from gate.limits.sliding_window import SlidingWindow
from gate.limits.spec import MOST, NEVER, Quota, Spec, Window

_ANY: Final = Window(MOST, 1)


class Limiter(SlidingWindow):
    """Decides about one key. It reads no clock, is not thread-safe, and starts with all of its burst.

    The bucket is GCRA: it keeps the time at which it will be full again, in ticks of `Spec.scale` to the ns (ITU-T
    I.371; Brandur Leach's throttled is the known implementation). The limiter is itself the first of its windows, which
    saves an object for each key.

    Every `now` is ns; one before the newest at which something was charged, or refused, is taken as that. Questions
    change nothing, so they may be asked about the future.
    """

    __slots__ = ("_full", "_more", "last", "spec")

    def __init__(self, spec: Spec, now: int) -> None:
        _check_spec(spec)
        if type(now) is not int or not -MOST <= now <= MOST:
            raise bad_time(now)
        super().__init__(spec.windows[0] if spec.windows else _ANY)
        self.spec = spec
        self.last = now
        self._full = now * spec.scale  # ticks
        self._more: tuple[Counter, ...] = (
            *map(SlidingWindow, spec.windows[1:]),
            *[quota.counter() for quota in spec.quotas],
        )
        if not spec.windows:  # one run that never ends and starts too low ever to be full
            self._edge, self._tail, self._used = MOST, NEVER, -NEVER

    def fit(self, now: int, count: int, cost: int = 1) -> int:
        """Return how many of `count` requests of `cost` units each fit at `now`; charge none."""
        if count.__class__ is not int or count < 0:
            check_amount("count", count, "requests")
        if cost.__class__ is not int or cost < 1:
            check_cost(cost)
        now = self._at(now)
        spec = self.spec
        if spec.step:
            missing = self._full - now * spec.scale
            count = min(count, (spec.depth - missing if missing > 0 else spec.depth) // (spec.step * cost))
        for counter in self._counters():
            count = min(count, counter._room(now) // cost)
        return max(count, 0)  # a limit that was lowered, or charged without asking, has less than no room

    def charge(self, now: int, units: int) -> None:
        """Charge `units` at `now` without asking; the caller asked `fit`."""
        if units.__class__ is not int:
            check_amount("units", units, "units")
        if units <= 0:
            if units:
                raise ValueError(f"cannot charge {shown(units)} units: nothing that was charged is given back")
            return
        now = self._advance(now)
        spec = self.spec
        if spec.windows:
            self._add(now, units)
        for counter in self._more:
            counter._add(now, units)
        start, full = now * spec.scale, self._full
        self._full = (full if full > start else start) + units * spec.step  # noqa: FURB136 - as in ready_at

    def take(self, now: int, count: int, cost: int = 1) -> int:
        """Charge as many of `count` requests of `cost` units each as fit at `now`; return how many."""
        if count.__class__ is int and count == 1:
            return 1 if self.try_take(now, cost) is None else 0
        fitting = self.fit(now, count, cost)
        self.charge(now, fitting * cost)
        return fitting

    def take_apart(self, now: int, count: int, cost: int, grain: int, latest: int) -> list[int]:
        """Charge requests of `cost` units one behind the other, each at the first multiple of `grain` that admits it.

        Returns their times: of at most `count` requests, none after `latest`, and of none that a window could refuse
        if nothing in it expired. So the bucket alone decides, and the windows are told in one go.
        """
        check_amount("count", count, "requests")
        check_cost(cost)
        check_count("grain", grain, "ns")
        if type(latest) is not int:
            raise bad_time(latest)
        now = self._at(now)
        spec = self.spec
        for counter in self._counters():
            count = min(count, counter._room(now) // cost)
        if spec.step and cost > spec.burst:
            return []
        times: list[int] = []
        scale, full, need = spec.scale, self._full, cost * spec.step
        room, ticks, time = spec.depth - need, (scale or 1) * grain, -(-now // grain) * grain
        for _ in range(count):
            if full - room > time * scale:
                time = -((room - full) // ticks) * grain
            if time > latest:
                break
            start = time * scale
            full = (full if full > start else start) + need  # noqa: FURB136 - as in ready_at
            times.append(time)
        if times:
            self._advance(times[-1])
            self._full = full
            for counter in self._counters():
                counter._add_each(times, cost)
        return times

    def try_take(self, now: int, cost: int = 1) -> int | None:
        """Charge `cost` at `now` if it fits: None. Else charge nothing and return what `ready_at` returns.

        This is the path that must be fast: one pass, the common case without a call.
        """
        if cost.__class__ is not int or cost < 1:
            check_cost(cost)
        if now.__class__ is not int:
            raise bad_time(now)
        if now < self.last:  # noqa: PLR1730 - as in ready_at
            now = self.last
        spec = self.spec
        start = now * spec.scale
        full = self._full
        if full < start:  # noqa: PLR1730
            full = start
        full += cost * spec.step
        # Units that have expired may still be in _used: it can only be too high, and _when corrects it.
        if full > start + spec.depth or self._used + cost > self._window.limit or self._more:
            ready = self._when(now, full, cost)
            if ready > now:
                self.last = now
                return ready
            for counter in self._more:
                counter._add(now, cost)
        if now > self._edge:
            self._open(now)
        self.last = now
        self._full = full
        self._used += cost
        return None

    def ready_at(self, now: int, cost: int = 1) -> int:
        """Return the earliest time from `now` on that admits `cost` if nothing else comes; NEVER if none does."""
        if cost.__class__ is not int or cost < 1:
            check_cost(cost)
        now = self._at(now)
        bucket = self._bucket_at(now, cost)
        if self._used + cost <= self._window.limit and not self._more:  # see try_take: it can only be too high
            return bucket
        opens = self._counters_at(now, cost)
        return bucket if bucket > opens else opens  # noqa: FURB136 - max() takes thrice the time

    def binding(self, now: int, cost: int = 1) -> Limit | None:
        """Return which limit makes `cost` wait longest; None if it need not wait."""
        check_cost(cost)
        now = self._at(now)
        binding: Limit | None = None
        longest = now
        for limit, ready in zip(self.spec.limits, self._opening(now, cost), strict=True):
            if ready > longest:
                binding, longest = limit, ready
        return binding

    def tokens(self, now: int) -> Fraction:
        """Return the units in the bucket at `now`; without a bucket, the smallest room of a window."""
        now = self._at(now)
        spec = self.spec
        if spec.step:
            return spec.burst - Fraction(max(0, self._full - now * spec.scale), spec.step)
        return Fraction(min((counter._room(now) for counter in self._counters()), default=0))

    def bucket_fill(self, now: int) -> float:
        """Return the share of the burst that is used at `now`; above 1 where it was charged without asking."""
        now = self._at(now)
        return max(0, self._full - now * self.spec.scale) / (self.spec.depth or 1)

    def shares(self, now: int) -> list[float]:
        """Return the share of each limit that is used at `now`, in the order of `Spec.limits`."""
        now = self._at(now)
        limits = self.spec.limits
        shares = [] if self.spec.rate is None else [self.bucket_fill(now)]
        for counter in self._counters():
            shares.append(counter._counted(now) / limits[len(shares)].capacity)
        return shares

    def fills(self, now: int) -> list[Fill]:
        """Return how full each limit is at `now`, in the order of `Spec.limits`."""
        now = self._at(now)
        shares, limits = self.shares(now), self.spec.limits
        fills = [] if self.spec.rate is None else [Fill(limits[0], shares[0])]
        for counter in self._counters():
            limit, share, renews_at = limits[len(fills)], shares[len(fills)], counter._renews_at(now)
            left = None if renews_at is None else max(0, limit.capacity - counter._counted(now))
            fills.append(Fill(limit, share, left, renews_at))
        return fills

    def window_fill(self, now: int) -> float:
        """Return the share of the fullest window that is used at `now`; above 1 where the limit was lowered since."""
        used, limit = self.fullest(now)
        return used / limit

    def fullest(self, now: int) -> tuple[int, int]:
        """Return the units that count in the fullest window at `now`, and its limit; (0, 1) without any window."""
        now = self._at(now)
        fullest = (0, 1)
        for window in self._windows():
            share = (window._counted(now), window._window.limit)
            if share[0] * fullest[1] >= fullest[0] * share[1]:
                fullest = share
        return fullest

    def idle(self, now: int) -> bool:
        """Tell whether this is equal to a new limiter, so that it may be forgotten."""
        now = self._at(now)
        return self._full <= now * self.spec.scale and all(counter._empty(now) for counter in self._counters())

    def idle_at(self) -> int:
        """Return from when on this is idle if nothing else comes."""
        full = -(-self._full // self.spec.scale) if self.spec.step else self.last
        return max([full, *[counter._empties_at() for counter in self._counters()]])

    def spent(self, now: int, span: int) -> int:
        """Return the units charged in the last `span` ns, as far as a window remembers; rounded up to its cells."""
        check_amount("span", span, "ns")
        now = self._at(now)
        return max((counter._since(now - span) for counter in self._counters()), default=0)

    def reconfigure(self, spec: Spec, now: int) -> None:
        """Go over to other limits. What counts in a window stays counted; tokens are capped and never added.

        A window takes over what the old window of its size counts; without one, what the next larger counts, or else
        the largest. So does a quota from the old quotas. A first bucket starts full.
        """
        _check_spec(spec)
        now = self._advance(now)
        twin = type(self)(spec, now)
        old = self.spec
        if spec.step and old.step:
            missing = max(0, self._full - now * old.scale)
            # what was missing from the old burst and what the bursts differ by is missing from the new one
            ticks = (spec.burst - old.burst) * spec.step + -(-missing * spec.step // old.step)
            twin._full = now * spec.scale + max(0, ticks)
        sources = sorted(self._windows(), key=lambda window: window._window.size)
        for old_window in sources:
            old_window._expire(now)  # or it would count again in a longer window
        for window in twin._windows():
            larger = (source for source in sources if source._window.size >= window._window.size)
            source = next(larger, sources[-1] if sources else None)
            if source is not None:
                window._adopt(source, now)
        twin._adopt_quotas(self, now)
        twin._copy_into(self)

    def renew(self, now: int) -> None:
        """Forget all that counts: be as a new limiter is at `now`."""
        Limiter(self.spec, self._advance(now))._copy_into(self)

    def inherit(self, other: "Limiter", now: int) -> None:
        """Count here, as of now, all that counts in another limiter: for who may have had any part of it."""
        now = self._advance(now)
        spec, old = self.spec, other.spec
        missing = max(0, other._full - max(now, other.last) * old.scale)
        if spec.step and old.step:
            self._full = max(self._full, now * spec.scale) + -(-missing * spec.step // old.step)
        sources = sorted(other._windows(), key=lambda window: window._window.size)
        for window in self._windows():
            larger = (source for source in sources if source._window.size >= window._window.size)
            source = next(larger, sources[-1] if sources else None)
            if source is not None:
                source._expire(max(now, other.last))
                if source._used:
                    window._add(now, source._used)
        self._adopt_quotas(other, max(now, other.last))

    def _adopt_quotas(self, other: "Limiter", now: int) -> None:
        kept = dict(other._quotas())
        for quota, counter in self._quotas():
            source = quota.source(tuple(kept))
            if source is not None:
                counter._adopt(kept[source], now)

    def expect_many(self) -> None:
        """Go over to cells, for good, where a window may come to need them: all promises are by them from now on."""
        for counter in self._counters():
            counter._look_ahead()

    def follow(self, ahead: "Limiter") -> bool:
        """Keep what `ahead`, a copy that was charged ahead, promises: compress the windows that it has compressed.

        Tells whether that changed anything: a copy made before would then admit earlier than this limiter.
        """
        changed = [counter._follow(other) for counter, other in zip(self._counters(), ahead._counters(), strict=True)]
        return any(changed)

    def copy(self) -> "Limiter":
        """Return an independent copy; charged at the same times, it stays equal."""
        twin = object.__new__(Limiter)
        self._copy_into(twin)
        return twin

    def dump(self) -> bytes:
        """Return the whole state, with the limits it was made for, versioned and checksummed."""
        spec, out = self.spec, Writer()
        out.numbers(self.last)
        out.encoded(spec.encoded)
        out.numbers(self._full - self.last * spec.scale, len(spec.windows))
        for number, counter in enumerate(self._counters()):
            if number == len(spec.windows):  # an older program, which knows no quotas, refuses what follows
                out.numbers(len(spec.quotas))
            counter._write(out, self.last)
        return seal(out)

    @classmethod
    def load(cls, spec: Spec | None, data: bytes) -> Self:
        """Return the limiter that `dump` wrote, carried over to `spec` if that differs. Raises StateError.

        Without `spec` it keeps the limits that it was written with.
        """
        if spec is not None:
            _check_spec(spec)
        source = unseal(data)
        with source.checked():
            (last,) = source.numbers(1)
            if spec is not None and source.skip(spec.encoded):  # the usual case
                limiter = cls._read_all(spec, source, last)
                if limiter is not None:
                    return limiter
            source.position = 1
            last, numerator, denominator, burst = source.numbers(4)
            full, count = source.numbers(2)
            start = source.position
            windows = []
            for _ in range(count):
                windows.append(Window(*source.numbers(2)))
                SlidingWindow(windows[-1])._read(source, last)
            quotas = []
            for _ in range(source.numbers(1)[0] if source.left else 0):
                quotas.append(Quota.read(source))
                quotas[-1].counter()._read(source, last)
            stored = Spec(Fraction(numerator, denominator) or None, burst, tuple(windows), tuple(quotas))
            if full and not stored.rate:
                raise ValueError("tokens without a bucket")
            limiter = cls(stored, last)
            limiter._full = full + last * stored.scale
            source.position = start
            for number, counter in enumerate(limiter._counters()):
                if number < len(windows):
                    source.numbers(2)
                else:
                    source.numbers(int(number == len(windows)))
                    Quota.read(source)
                counter._read(source, last)
            source.end()
        if spec is not None and stored != spec:
            limiter.reconfigure(spec, last)
        limiter.spec = spec or stored  # the equal one of the caller, so that keys share it
        return limiter

    @classmethod
    def _read_all(cls, spec: Spec, source: Reader, last: int) -> Self | None:
        """Read what follows on the rate; None: it was written for other windows or quotas than those of `spec`."""
        full, count = source.numbers(2)
        if count != len(spec.windows):
            return None
        limiter = cls(spec, last)
        limiter._full += full
        for number, counter in enumerate(limiter._counters()):
            if number == count and (not source.left or source.numbers(1)[0] != len(spec.quotas)):
                return None
            if not source.skip(spec.counted[number].encoded):
                return None
            counter._read(source, last)
        if source.left and not spec.quotas:
            return None
        source.end()
        if full and not spec.step:
            raise ValueError("tokens without a bucket")
        return limiter

    def _counters(self) -> tuple[Counter, ...]:
        return (self, *self._more) if self.spec.windows else self._more

    def _quotas(self) -> list[tuple[Quota, Counter]]:
        return list(zip(self.spec.quotas, self._counters()[len(self.spec.windows) :], strict=True))

    def _windows(self) -> list[SlidingWindow]:
        return [counter for counter in self._counters() if isinstance(counter, SlidingWindow)]

    def _at(self, now: int) -> int:
        """Return the time that a question is about."""
        if now.__class__ is not int:
            raise bad_time(now)
        if now <= self.last:
            return self.last
        if now > MOST:
            raise bad_time(now)
        return now

    def _advance(self, now: int) -> int:
        """Go on to the time of a charge, or of other limits."""
        if now.__class__ is not int or now > self.last:
            self.last = self._at(now)
        return self.last

    def _when(self, now: int, full: int, cost: int) -> int:
        """Return the earliest time for `cost`, which would leave a bucket that is full again at the tick `full`."""
        if now > MOST:
            raise bad_time(now)
        spec = self.spec
        ready = now
        if full > now * spec.scale + spec.depth:
            ready = -((spec.depth - full) // spec.scale) if cost <= spec.burst else NEVER
        opens = self._counters_at(now, cost)
        return opens if opens > ready else ready  # noqa: FURB136

    def _counters_at(self, now: int, cost: int) -> int:
        ready = self._opens_at(now, cost)
        for counter in self._more:
            ready = max(ready, counter._opens_at(now, cost))
        return ready

    def _opening(self, now: int, cost: int) -> list[int]:
        bucket = [] if self.spec.rate is None else [self._bucket_at(now, cost)]
        return bucket + [counter._opens_at(now, cost) for counter in self._counters()]

    def _bucket_at(self, now: int, cost: int) -> int:
        spec = self.spec
        if not spec.step:
            return now
        if cost > spec.burst:
            return NEVER
        # An empty bucket at `now` would give a time before it, so the debt alone decides.
        ready = -((spec.depth - cost * spec.step - self._full) // spec.scale)
        return ready if ready > now else now  # noqa: FURB136

    def _copy_into(self, twin: "Limiter") -> None:
        self._copy_window(twin)
        for name in Limiter.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._more = tuple(counter._copy() for counter in self._more)


def _check_spec(spec: object) -> None:
    if not isinstance(spec, Spec):
        raise TypeError(f"limits must be a Spec, not {shown(spec)} ({type(spec).__name__})")
