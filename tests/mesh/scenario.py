"""What is drawn from a seed: limits, who calls how, and what goes wrong."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from gate.limits import Spec, Window
from gate.mesh.owner import Owner
from gate.mesh.terms import Terms
from gate.units import MS, SECOND
from tests.mesh.checker import over
from tests.mesh.world import Mesh, Names, Net, Proc

FAST = Terms(
    period_ns=SECOND // 2, lease_ns=4 * SECOND, stock_ns=3 * SECOND // 4, turn_ns=5 * SECOND, short_ns=2 * SECOND
)


@dataclass
class Result:
    seed: int
    problems: list[str]
    calls: int
    messages: int
    units: int
    seconds: float


def draw_spec(random: Random) -> Spec:
    if random.random() < 0.15:  # so little that each call asks
        return Spec(
            Fraction(1, random.choice((1, 3))), 1, (Window(random.choice((1, 2)), random.choice((1, 10)) * SECOND),)
        )
    rate = Fraction(random.choice((5, 10, 20, 40)), random.choice((1, 1, 1, 3)))
    burst = random.choice((3, 5, 10, 30))
    short = Window(random.choice((5, 10, 30)), random.choice((1, 1, 2)) * SECOND)
    long = Window(random.choice((10, 30, 100)), random.choice((6, 10, 15)) * SECOND)
    windows = random.choice(((), (short,), (short,), (long,), (long,), (short, long)))
    return Spec(None if windows and random.random() < 0.4 else rate, burst, windows)


def flow(spec: Spec) -> float:
    """Units per second."""
    flows = [window.per_second for window in spec.windows]
    return min(flows if spec.rate is None else [*flows, float(spec.rate)])


class Caller:
    """How one process calls."""

    def __init__(self, proc: Proc, random: Random, names: Sequence[Names], rate: float, costs: Sequence[int]) -> None:
        self.proc = proc
        self.random = random
        self.names = names
        self.rate = rate
        self.costs = costs
        self.spending = -1
        self.kind = random.choice(("steady", "exact", "exact", "bursts", "hoarder", "hoarder", "waits"))
        proc.spend = self.spend
        if self.kind == "hoarder":
            proc.on_wake = self.hoard
        elif self.kind == "waits":
            proc.on_wake = proc.poll
        proc.mesh.events.after(random.randint(0, 2 * SECOND), self.act)

    def act(self) -> None:
        proc, random, events = self.proc, self.random, self.proc.mesh.events
        if proc.dead:
            return
        pause = random.expovariate(self.rate)
        match self.kind:
            case "steady":
                proc.check(random.choice(self.names), random.choice(self.costs))
            case "exact":
                names, cost = random.choice(self.names), random.choice(self.costs)
                for _ in range(5):
                    refusal = proc.check(names, cost)
                    if refusal is not None:
                        break
                if refusal is not None and refusal.wait < 2 * SECOND and random.random() < 0.9:
                    again = proc.clock.true(proc.now + refusal.wait)
                    events.at(max(again, events.now + 1), self.act)  # to the ns at which it may go
                    return
            case "bursts":
                pause *= 20
                for _ in range(random.randint(1, 40)):
                    proc.check(random.choice(self.names), random.choice(self.costs))
            case "waits":
                pause *= 4
                if len(proc.queued) < 20:
                    proc.queue(random.choice(self.names), random.choice(self.costs))
                proc.poll()
            case "hoarder":
                pause = 0.3
                self.pretend()
        events.after(round(pause * SECOND) + 1, self.act)

    def pretend(self) -> None:
        """Want much, use nothing."""
        if self.proc.stopped:
            return
        holder = self.proc.holder
        for names in self.names:
            for name in names:
                held = holder._held.get(name) or holder._meet(name)
                held.wanted += round(self.rate) + 1
        self.proc.arm()

    def hoard(self) -> None:
        """Spend all at the last instant, and at any other that may be a wrong one."""
        proc, random = self.proc, self.random
        if proc.stopped:
            return
        if random.random() < 0.1 or proc.resumed:
            self.spend()
        time = proc.clock.true(proc.holder.until - random.choice((1, 1, 1, SECOND // 3)))
        if time != self.spending and time > proc.mesh.events.now:
            self.spending = time
            proc.mesh.events.at(time, self.spend_if, time)

    def spend_if(self, time: int) -> None:
        late = self.proc.clock.true(self.proc.holder.until - 1) <= time + SECOND // 3 + 2
        if self.spending == time and (late or self.random.random() < 0.2):
            self.spend()
            if late:
                for wait in (2, 50 * MS, SECOND):
                    self.proc.mesh.events.after(wait, self.spend)

    def spend(self) -> None:
        for names in self.names:
            for cost in sorted(set(self.costs)):
                for _ in range(200):
                    refusal = self.proc.check(names, cost)
                    if refusal is not None:
                        break


class Trouble:
    """What goes wrong."""

    def __init__(
        self, mesh: Mesh, random: Random, call: Callable[[Proc], None], kinds: Sequence[str], pause: float
    ) -> None:
        self.mesh = mesh
        self.random = random
        self.call = call
        self.kinds = kinds
        self.pause = pause
        self.count = 0
        if kinds:
            self.plan()

    def plan(self) -> None:
        self.mesh.events.after(round(self.random.expovariate(1 / self.pause) * SECOND), self.strike)

    def strike(self) -> None:
        mesh, random = self.mesh, self.random
        self.plan()
        kind = random.choice(self.kinds)
        lease = mesh.terms.lease_ns
        if kind == "owner":
            mesh.host.cut = random.choice(("before", "after"))
            return
        live = [proc for proc in mesh.procs if not proc.dead]
        if not live:
            return
        victim = random.choice(live)
        self.count += 1
        match kind:
            case "kill":
                victim.spend()  # and nobody is told of it
                victim.kill()
                self.call(mesh.proc(f"{victim.name}+{self.count}"))
            case "leave":
                if not victim.stopped:
                    victim.leave()
                    self.call(mesh.proc(f"{victim.name}+{self.count}"))
            case "stop":
                if random.random() < 0.5:
                    victim.spend()
                victim.stop(random.randint(lease // 2, lease * 5 // 2))
            case "suspend":
                victim.suspend(random.randint(lease // 2, lease * 5 // 2))
            case "deaf":
                victim.deaf_until = mesh.events.now + random.randint(lease // 2, lease * 2)
            case "slow":  # what it sends is lost, and what it is sent comes in the end
                victim.slow_until = mesh.events.now + random.randint(lease, lease * 2)
                mesh.events.at(victim.slow_until, victim.spend)
            case "fork":
                if not victim.stopped and len(live) < 10:
                    child = victim.fork(f"{victim.name}/{self.count}")
                    self.call(child)
                    if random.random() < 0.5:
                        victim.spend()
                        child.spend()


def simulate(seed: int, mutant: AbstractContextManager[None] | None = None) -> Result:
    """Play one seed. Always the same way for one seed."""
    with mutant or nullcontext():
        try:
            return _simulate(seed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault
            return Result(seed, [f"{type(error).__name__}: {error}"], 0, 0, 0, 0.0)


def _simulate(seed: int) -> Result:
    random = Random(seed * 7919 + 1)
    specs = {"s": draw_spec(random)}
    names: list[Names] = [("s",)]
    if random.random() < 0.2:
        specs |= {"t0": draw_spec(random), "t1": draw_spec(random)}
        names = [("s", "t0"), ("s", "t1")]
    terms = random.choice((FAST, FAST, FAST, Terms()))
    bad = random.random() < 0.5
    net = Net(lost=0.05, twice=0.1, late=0.1, latest=3 * terms.lease_ns // 2) if bad else Net()
    mesh = Mesh(specs, seed, terms=terms, net=net)
    seconds = random.choice((15, 25, 40)) * (terms.lease_ns / (4 * SECOND)) ** 0.5
    ceiling = min([spec.ceiling or 1 for spec in specs.values()])
    costs = [1]
    if random.random() < 0.4:
        costs = [1] * 6 + [random.randint(1, min(5, ceiling)), random.randint(1, ceiling)]
    procs = random.choice((2, 3, 3, 4, 6))
    rate = min(100.0, random.choice((0.7, 2.0, 5.0)) * flow(specs["s"])) / procs

    def call(proc: Proc) -> None:
        Caller(proc, random, names, rate, costs)

    for number in range(procs):
        call(mesh.proc(f"p{number}"))
    kinds = [
        kind for kind in ("kill", "leave", "stop", "suspend", "deaf", "slow", "fork", "owner") if random.random() < 0.5
    ]
    Trouble(mesh, random, call, kinds, random.choice((1.0, 2.0, 5.0)))
    if random.random() < 0.3:
        wanted = random.choice((1, 5, 20))

        def queue(owner: Owner, now: int) -> list[tuple[Names, int]]:
            owner.want(now, "s", wanted)
            units = min(wanted, owner.room(now, "s"))
            if units:
                owner.charge(now, "s", units)
            return [(("s",), units)] if units else []

        mesh.host.queue = queue
    old, changed = specs["s"], None
    if random.random() < 0.3:
        changed = draw_spec(random) if random.random() < 0.4 else _scaled(old, random)
        mesh.events.after(round(random.uniform(0.2, 0.6) * seconds * SECOND), mesh.host.change, {"s": changed})
    mesh.run(seconds)
    problems = []
    for name in specs:
        if name == "s" and changed is not None:
            problems += _over_changed(mesh, old, changed)
        else:
            problems += [f"{name}: {text}" for text in over(specs[name], mesh.uses[name])]
    units = sum(units for _, units in mesh.uses["s"])
    return Result(seed, problems, mesh.calls, mesh.messages, units, seconds)


def _scaled(spec: Spec, random: Random) -> Spec:
    by = random.choice((Fraction(1, 3), Fraction(1, 2), Fraction(2), Fraction(3)))
    rate = None if spec.rate is None else spec.rate * by
    windows = tuple([Window(max(1, int(window.limit * by)), window.size) for window in spec.windows])
    return Spec(rate, max(1, int(spec.burst * by)), windows)


def _over_changed(mesh: Mesh, old: Spec, new: Spec) -> list[str]:
    """A lower limit is true a lease after the owner knows of it, and between the two the higher one is."""
    sizes = {window.size: window.limit for window in old.windows}
    both = [
        Window(max(window.limit, sizes[window.size]), window.size) for window in new.windows if window.size in sizes
    ]
    rate = None if old.rate is None or new.rate is None else max(old.rate, new.rate)
    most = Spec(rate, max(old.burst, new.burst), tuple(both))
    problems = [f"s, of the larger limits: {text}" for text in over(most, mesh.uses["s"])]
    known = mesh.host.reloaded + mesh.terms.lease_ns * 101 // 100
    return problems + [f"s, of the new limits: {text}" for text in over(new, mesh.uses["s"], known)]
