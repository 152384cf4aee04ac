"""One budget as its owner divides it: parts, grants and direct requests of the limits of one key."""

from collections.abc import Iterator
from typing import Final

from gate.limits import Spec
from gate.mesh.asks import Asks
from gate.mesh.grants import CREDIT, Grants, long_windows
from gate.mesh.held import Held, Key
from gate.mesh.ledger import Ledger
from gate.mesh.parts import Parts
from gate.mesh.terms import NANO, Terms, longer
from gate.mesh.wire import NONE, BudgetReport, Limits, Share
from gate.units import SECOND

_SLOW: Final = 2_000  # units per 1,000 s, about as many as may be asked for one by one
_MOST_WANT: Final = 2**53
FOREVER: Final = 2**62  # a pause without an end


class Budget:
    """Divides the limits of one key. Only the owner of a shard has one; every `now` is by the shard's clock.

    Bucket and short windows are divided (`parts`), long windows and quotas granted from (`grants`), and a call that
    neither can carry asks (`asks`).
    """

    def __init__(self, name: str, spec: Spec, now: int, terms: Terms) -> None:
        self.name = name
        self.spec = spec
        self.terms = terms
        self.held: dict[Key, Held] = {}
        self.parts = Parts(spec, now, terms)
        self.grants = Grants(spec, now, terms)
        self.asks = Asks(terms)
        self.limits = self._limits()
        self.direct = False  # whether parts would be too small, so that each call asks
        self.paused_until = 0
        self.eager = False  # whether to divide anew before the period is over
        self.divided: int | None = None
        self.queue_want = 0  # of the requests in topics, in units per 1,000 s

    def _limits(self) -> Limits:
        ceiling = self.spec.ceiling
        granted = bool(long_windows(self.spec, self.terms) or self.spec.quotas)
        rate = self.parts.whole[0] if self.parts.bucket else NONE
        return Limits(rate, self.parts.sizes, NONE if ceiling is None else ceiling, granted)

    def reconfigure(self, now: int, spec: Spec, version: Iterator[int]) -> list[Held]:
        """Go over to other limits; return who must be told. What is new starts empty, what stays stays counted."""
        self.spec = spec
        self.parts.reconfigure(now, spec, self.held.values())
        self.grants.reconfigure(now, spec)
        self.limits = self._limits()
        for held in self.held.values():
            held.void = held.granted
            held.pending.append((next(version), held.shape))
        self.eager = True
        return list(self.held.values())

    def hear(self, now: int, key: Key, entry: BudgetReport) -> Held:
        """Take what a holder tells of this budget."""
        held = self.held.get(key)
        if held is None:
            held = self.held[key] = Held(key, self.name, now, self.parts.nothing, entry.consumed)
        acked, sizes, want = held.acked, self.parts.sizes, entry.want
        held.acknowledge(now, entry, sizes)
        if held.acked is not acked or sizes:
            self.parts.note(now, held)
        if entry.runs or entry.consumed != held.accounted:
            self.grants.account(now, held, entry)
        if want > 0 and not any(held.target):
            self.eager = True
        held.want = want if 0 <= want <= _MOST_WANT else max(0, min(want, _MOST_WANT))
        return held

    def end(self, now: int, key: Key, until: int, *, left: bool = False) -> None:
        """Forget a holder whose lease is over: what it had counts as spent, in windows until they have passed."""
        self.asks.forget(key)
        held = self.held.pop(key, None)
        if held is not None:
            self.parts.forget(held)
            self.grants.end(now, held, until, left=left)
            self.parts.end(now, held, until, left=left)
            self.eager = True

    def room(self, now: int) -> int:
        """Return how many units the requests in topics may take now."""
        if now < self.paused_until:
            return 0
        rooms = self.parts.room(now) + [-debt for debt in self.grants.debts(now)]
        return max(0, min(rooms, default=FOREVER) - max(self.asks.kept(now), self.asks.owed(now)[0]))

    def opens_at(self, now: int, units: int) -> int:
        """Return when requests in topics may have so many units; at the latest when it is divided anew."""
        later = now + self.terms.period_ns // 4
        times = [
            later if time is None else time for time in (*self.parts.ready(now, units), *self.grants.ready(now, units))
        ]
        return min(max([self.asks.owed(now)[1], *times], default=later), now + self.terms.period_ns)

    def charge(self, now: int, at: int, units: int) -> None:
        """Charge requests in topics, or a direct one, for a use until `at`."""
        self.parts.charge(at, units)
        self.grants.used(now, at, units)

    @property
    def ledgers(self) -> list[Ledger]:
        """What it counts in each window: divided ones first."""
        return self.parts.windows + self.grants.longs

    def idle(self, now: int) -> bool:
        """Tell whether nobody holds any of it, nothing counts, and it is not paused."""
        quiet = not self.held and not any(now < rest.until for rest in self.parts.rests) and not self.asks.kept(now)
        paused = now < self.paused_until < FOREVER
        return quiet and not paused and self.parts.full(now) and self.grants.full(now)

    def use_by(self, round_trip: int) -> int:
        """Return for how long a direct answer may hold, where answers take about `round_trip` ns."""
        sizes = [window.size for window in self.spec.windows]
        if self.parts.whole[0]:
            sizes.append(SECOND * NANO // self.parts.whole[0])
        return self.terms.use_by(min(sizes, default=self.terms.period_ns), round_trip)

    def ask(self, now: int, key: Key, cost: int) -> int:
        """Return 0 if a direct request fits now, else the ns after which it may; NONE: never. Charges nothing."""
        if self.limits.ceiling != NONE and cost > self.limits.ceiling:
            return NONE
        if now < self.paused_until:
            return min(self.paused_until - now, self.terms.lease_ns)
        held = self.held.get(key)
        if self.divided is None:
            self._judge(1)
        if not self.direct and cost <= self.parts.crowded and held is not None and held.want:
            if any(held.target):
                return self.terms.period_ns // 4  # its part is on the way
            return self.terms.turn_ns - now % self.terms.turn_ns  # others have theirs in this turn
        need = self.asks.hear(now, key, cost)
        recall = now + self.terms.period_ns
        own = self.parts.ready(now, need)
        self.eager = self.eager or None in own
        if not self.direct:  # it grows as soon as parts are recalled
            own = [recall if time is None else min(time, recall) for time in own]
        times = [recall if time is None else time for time in own + self.grants.ready(now, need)]
        wait = max(times, default=now) - now
        queued = self.queue_want > 0
        return self.asks.deny(now, key, cost, wait, first=need == cost, queued=queued) if wait > 0 else 0

    @property
    def hurries(self) -> bool:
        """Tell whether something is to be given or recalled before the period is over."""
        if self.eager and (self.held or self.parts.rests):
            return True
        return any(each.slide and each.slide.target < each.limit * 7 // 8 for each in self.parts.windows)

    def due(self, now: int) -> bool:
        """Tell whether it is time to divide anew."""
        if self.divided is None:
            return True
        return now >= self.divided + (self.terms.period_ns // 10 if self.eager else self.terms.period_ns)

    def divide(self, now: int) -> None:
        """Find what each should have from now on; `move` takes them there as far as others have let go."""
        elapsed = max(1, now - self.divided) if self.divided is not None else self.terms.period_ns
        self.asks.measure(now, elapsed)
        self.eager, self.divided = False, now
        self.parts.rests = [rest for rest in self.parts.rests if now < rest.until]
        holders = list(self.held.values())
        wants = [held.want for held in holders]
        own = self.queue_want + self.asks.want
        if self.limits.granted:
            self.grants.pace(now, holders, own)
        self._judge(len([want for want in wants if want]) or int(bool(self.asks.want)))
        targets = None
        if now >= self.paused_until and any(wants) and not self.direct:
            targets = self.parts.divide(now, self.asks.dearest(now), own, wants)
            self.direct = targets is None
        elif now >= self.paused_until and not self.queue_want and not self.direct:  # who comes again has it still
            targets = self.parts.rest(holders, self.asks.dearest(now))
        if targets is None:
            targets = [self.parts.whole, *[self.parts.nothing] * len(holders)]
        self.parts.aim(now, holders, targets)

    def _judge(self, wanting: int) -> None:
        """Go over to direct requests where a part would be less than about a unit per lease, or little more."""
        flows = [window.limit * CREDIT // window.size for window in self.spec.windows]
        if self.parts.bucket:
            flows.append(self.parts.whole[0] * 1000 // NANO)
        flow = min(flows, default=FOREVER)
        units, least = flow * self.terms.lease_ns, wanting * CREDIT
        few = units < (least * 3 // 2 if self.direct else least)
        # A part that holds one token stands still from when that is there until the next call comes.
        thin = self.parts.whole[1] < wanting * (3 if self.direct else 2) and flow <= _SLOW and not self.parts.sizes
        self.direct = wanting > 0 and (few or (self.parts.bucket and thin and wanting > 1))

    def move(self, now: int, version: Iterator[int]) -> list[Held]:
        """Recall and give parts as was divided; return those to whom there is news."""
        if self.divided is None or not any(self.parts.whole):
            return []
        keen = bool(self.asks.want or self.queue_want)
        return list(self.parts.move(now, version, keen=keen).values())

    def top_up(self, now: int, held: Held, version: Iterator[int]) -> bool:
        """Grant a holder what it wants in a short time, as far as there is any; tell whether it got any."""
        if not held.want or self.direct or now < self.paused_until or not self.limits.granted:
            held.credited = now
            return False
        return self.grants.top_up(now, held, self.asks.kept(now), version)

    def share(self, now: int, held: Held) -> Share:
        """Return what is told to a holder."""
        version, shape = held.pending[-1] if held.pending else (held.acked_version, held.acked)
        held.open(now)
        starts: tuple[tuple[int, int], ...] = ()
        if held.starts:
            later = [(position, longer(longer(max(0, at - now)))) for position, at in held.starts]
            starts = ((held.opened, 0), *later)
        return Share(
            self.name, version, self.limits, shape[0], shape[1], shape[2:], held.granted, starts, held.stock, held.void
        )
