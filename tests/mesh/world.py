"""A mesh: processes that hold parts, an owner that is replaced, and a network between them, on simulated time."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from gate.limits import Spec
from gate.mesh.holder import Holder
from gate.mesh.owner import Owner
from gate.mesh.questions import Refusal
from gate.mesh.terms import DEFAULT, Terms
from gate.mesh.wire import Grant, Report, decode, encode
from gate.units import MS, SECOND
from tests.mesh.checker import Use
from tests.mesh.clock import Clock, Events

Names = tuple[str, ...]


@dataclass
class Net:
    """How messages come: one way takes `least` to `most` ns, and some go wrong."""

    least: int = 2 * MS
    most: int = 30 * MS
    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    latest: int = 15 * SECOND

    def delays(self, random: Random) -> list[int]:
        if random.random() < self.lost:
            return []
        delays = [random.randint(self.least, self.most)]
        if random.random() < self.twice:
            delays.append(random.randint(self.least, self.latest))
        if random.random() < self.late:
            delays[0] = random.randint(self.most, self.latest)
        return delays


class Mesh:
    """Everything there is, and what was done."""

    def __init__(
        self,
        limits: Mapping[str, Spec],
        seed: int = 0,
        *,
        terms: Terms = DEFAULT,
        net: Net | None = None,
        drift: int = 1000,
        step: int = 100 * MS,
    ) -> None:
        self.limits = dict(limits)
        self.random = Random(seed)
        self.terms = terms
        self.net = net or Net()
        self.drift = drift
        self.events = Events()
        self.procs: list[Proc] = []
        self.uses: dict[str, list[Use]] = defaultdict(list)
        self.by_proc: dict[str, list[Use]] = defaultdict(list)
        self.messages = 0
        self.calls = 0
        self.host = Host(self, step)

    def clock(self) -> Clock:
        return Clock(self.random.randint(0, 10**15), self.random.randint(-self.drift, self.drift))

    def proc(self, name: str) -> "Proc":
        proc = Proc(self, name)
        self.procs.append(proc)
        return proc

    def record(self, who: str, names: Names, units: int) -> None:
        for name in names:
            self.uses[name].append((self.events.now, units))
        self.by_proc[who].append((self.events.now, units))

    def run(self, seconds: float) -> None:
        self.events.run(self.events.now + round(seconds * SECOND))


class Host:
    """Where the owner runs: what it has heard and decided counts when it is committed."""

    def __init__(self, mesh: Mesh, step: int) -> None:
        self.mesh = mesh
        self.pause = step
        self.clock = mesh.clock()
        self.owner: Owner | None = Owner(self.limit_of, mesh.terms)
        self.inbox: list[bytes] = []  # of the topic, from the committed offset on
        self.state: dict[str, bytes] = {}
        self.queue: Callable[[Owner, int], list[tuple[Names, int]]] | None = None
        self.reloaded = 0  # when an owner last went over to the limits of then
        self.deaths = 0
        self.decided: list[Grant] = []
        self.cut: str | None = None  # die at the next step: before the commit, or after it
        self._due = -1
        self.plan(step)

    def limit_of(self, name: str) -> Spec | None:
        return self.mesh.limits.get(name)

    def post(self, data: bytes) -> None:
        self.inbox.append(data)
        self.plan(self.mesh.random.randint(1, 10) * MS)

    def plan(self, delay: int) -> None:
        time = self.mesh.events.now + delay
        if self.owner is not None and not self.mesh.events.now < self._due <= time:
            self._due = time
            self.mesh.events.at(time, self.wake, time)

    def wake(self, time: int) -> None:
        if time == self._due:
            self.step()

    @property
    def now(self) -> int:
        return self.clock.at(self.mesh.events.now)

    def step(self) -> None:
        owner, mesh = self.owner, self.mesh
        if owner is None:
            return
        heard = len(self.inbox)
        for data in self.inbox:
            owner.receive(self.now, decode(Report, data))
        used: list[tuple[Names, int]] = []
        if self.queue is not None:
            used = self.queue(owner, self.now)
        grants = owner.step(self.now)
        self.decided = grants
        cut, self.cut = self.cut, None
        if cut == "before parts" and not any(grant.shares for grant in grants):
            self.cut, cut = cut, None
        if cut in {"before", "before parts"}:
            self.die()
            return
        for key, value in owner.drain_changes(self.now).items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        del self.inbox[:heard]
        for names, units in used:
            mesh.record("queue", names, units)
        if cut == "after":
            self.die()
            return
        for grant in grants:
            self.send(grant)
        self._due = -1
        self.plan(self.pause + mesh.random.randint(-self.pause // 2, self.pause // 2))

    def send(self, grant: Grant) -> None:
        mesh, data = self.mesh, encode(grant)
        for proc in mesh.procs:
            if proc.holder.name == grant.holder and proc.holder.epoch == grant.epoch:
                mesh.messages += 1
                for delay in mesh.net.delays(mesh.random):
                    mesh.events.after(delay, proc.deliver, data)

    def change(self, limits: Mapping[str, Spec]) -> None:
        """The policy changes; a new owner goes by it from the start."""
        self.mesh.limits.update(limits)
        if self.owner is not None:
            self.reloaded = self.mesh.events.now
            self.owner.reload(self.now)

    def die(self, away: int = 6 * SECOND) -> None:
        self.owner = None
        self.deaths += 1
        self.mesh.events.after(away, self.take_over)

    def take_over(self) -> None:
        """Another machine with another clock goes on with what was committed."""
        if self.owner is None:
            self.clock = self.mesh.clock()
            self.owner = Owner(self.limit_of, self.mesh.terms)
            self.owner.load(self.now, self.state)
            self.reloaded = self.mesh.events.now
            self.step()


class Proc:
    """A process: its holder, its clock, and what stops it."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        self.mesh = mesh
        self.name = name
        self.clock = mesh.clock()
        self.holder = Holder(name, mesh.random.getrandbits(40), self.now, mesh.terms)
        self.stopped_until = 0
        self.deaf_until = 0
        self.slow_until = 0
        self.dead = False
        self.waiting: list[bytes] = []
        self.asking: set[tuple[Names, int]] = set()
        self.queued: dict[Any, tuple[Names, int]] = {}
        self.tickets = 0
        self.on_wake: Callable[[], None] | None = None
        self.spend: Callable[[], None] = lambda: None
        self.resumed = False
        self._armed = -1

    @property
    def now(self) -> int:
        return self.clock.at(self.mesh.events.now)

    @property
    def stopped(self) -> bool:
        return self.dead or self.mesh.events.now < self.stopped_until

    def check(self, names: Names, cost: int = 1) -> Refusal | None:
        if self.stopped:
            return Refusal(SECOND, asked=False)
        self.mesh.calls += 1
        refusal = self.holder.check(self.now, names, cost)
        if refusal is None:
            self.mesh.record(self.name, names, cost)
        elif refusal.asked:
            self.asking.add((names, cost))  # the call waits for the answer
        self.arm()
        return refusal

    def deliver(self, data: bytes) -> None:
        if self.dead or self.mesh.events.now < self.deaf_until:
            return
        if self.mesh.events.now < self.slow_until:
            self.mesh.events.at(self.slow_until, self.deliver, data)
            return
        if self.stopped:
            self.waiting.append(data)
            return
        self.holder.receive(self.now, decode(Grant, data))
        asking, self.asking = self.asking, set()
        for names, cost in sorted(asking):
            self.check(names, cost)
        self.arm()
        if self.on_wake is not None:
            self.on_wake()

    def poll(self) -> None:
        """Let those go whose turn has come."""
        if self.stopped:
            return
        tickets, _ = self.holder.poll(self.now)
        for ticket in tickets:
            names, cost = self.queued.pop(ticket)
            self.mesh.record(self.name, names, cost)
        self.arm()

    def queue(self, names: Names, cost: int) -> None:
        if not self.stopped:
            self.tickets += 1
            self.queued[self.tickets] = (names, cost)
            self.holder.wait(self.now, names, cost, self.tickets)

    def arm(self) -> None:
        """See to it that the next report goes out when it is due."""
        if self.holder.due(self.now):
            self.send()
        time = self.clock.true(self.holder.wake_at())
        if time != self._armed:
            self._armed = time
            self.mesh.events.at(time, self.wake, time)

    def wake(self, time: int) -> None:
        if time == self._armed and not self.dead:
            self._armed = -1
            if self.stopped:
                self.mesh.events.at(self.stopped_until, self.arm)
            else:
                self.arm()

    def send(self, *, leaving: bool = False) -> None:
        report = self.holder.report(self.now, leaving=leaving)
        if report is None or self.mesh.events.now < max(self.deaf_until, self.slow_until):
            return
        self.mesh.messages += 1
        data = encode(report)
        for delay in self.mesh.net.delays(self.mesh.random):
            self.mesh.events.after(delay, self.mesh.host.post, data)

    def stop(self, nanoseconds: int) -> None:
        """SIGSTOP, or a suspended machine."""
        self.stopped_until = self.mesh.events.now + nanoseconds
        self.mesh.events.at(self.stopped_until, self.go_on)

    def suspend(self, nanoseconds: int) -> None:
        """The machine sleeps. A clock that goes on meanwhile is asked for; `stood` is what another would lose."""
        self.stop(nanoseconds)

    def go_on(self) -> None:
        if self.stopped:
            return
        self.resumed = True
        self.spend()  # the program goes on before anything that has come meanwhile is read
        self.resumed = False
        waiting, self.waiting = self.waiting, []
        for data in waiting:
            self.deliver(data)
        self.arm()

    def kill(self) -> None:
        self.dead = True

    def leave(self) -> None:
        self.send(leaving=True)
        self.dead = True

    def fork(self, name: str) -> "Proc":
        """A child goes on with a copy of all memory, as `os.fork` does; the hook makes it a new holder."""
        child = self.mesh.proc(name)
        child.clock = replace(self.clock)
        child.holder = self.holder.forked(self.mesh.random.getrandbits(40), self.now)
        child.on_wake = None
        child.arm()
        return child
