"""The first holders of a service that is in flow: neither door stands still while its limit is divided anew."""

from fractions import Fraction

import pytest

from gate.limits import Spec, Window
from gate.mesh.ledger import Ledger
from gate.units import MS, SECOND
from tests.mesh.checker import over
from tests.mesh.table import NAMES
from tests.mesh.world import Mesh, Proc

BEFORE, AFTER = 5, 6  # seconds
CELL = 100 * MS
MOST_STILL = 2  # cells


class Topic:
    """Requests in a topic that come at a steady rate, and go every 10 ms as far as there is room."""

    def __init__(self, mesh: Mesh, rate: int) -> None:
        self.mesh = mesh
        self.rate = rate
        self.came = mesh.events.now
        self.waiting = 0
        mesh.host.queue = lambda owner, now: owner.want(now, "s", rate + self.waiting) or []
        mesh.events.after(10 * MS, self.go)

    def go(self) -> None:
        host, now = self.mesh.host, self.mesh.events.now
        assert host.owner is not None
        while self.came + SECOND // self.rate <= now:
            self.came += SECOND // self.rate
            self.waiting += 1
        units = min(self.waiting, host.owner.room(host.now, "s"))
        if units:
            self.waiting -= units
            host.owner.charge(host.now, "s", units)
            self.mesh.record("queue", NAMES, units)
        self.mesh.events.after(10 * MS, self.go)


def call(proc: Proc, pause: int) -> None:
    proc.check(NAMES)
    proc.mesh.events.after(pause, call, proc, pause)


def call_for(seconds: int, proc: Proc, pause: int) -> None:
    """Call in so many seconds, and let as many pass."""
    end = proc.mesh.events.now + seconds * SECOND
    for at in range(proc.mesh.events.now, end, pause):
        proc.mesh.events.at(at, proc.check, NAMES)
    proc.mesh.run(seconds)


def cells(mesh: Mesh, *names: str) -> list[int]:
    """Return what these let go from the arrival on, by 100 ms."""
    counts = [0] * (AFTER * SECOND // CELL)
    for name in names:
        for at, units in mesh.by_proc[name]:
            place = (at - BEFORE * SECOND) // CELL
            if 0 <= place < len(counts):
                counts[place] += units
    return counts


def stillest(counts: list[int]) -> int:
    """Return how many cells without any there are, at most, one after another."""
    return max(map(len, "".join("x" if count else "." for count in counts).split("x")))


@pytest.mark.parametrize("step", [100 * MS, SECOND], ids=["often", "with-the-period"])
@pytest.mark.parametrize(
    ("spec", "offered", "called"),
    [
        (Spec(Fraction(280), 140, (Window(840, 3 * SECOND),)), 60, 300),
        (Spec(Fraction(100), 10, (Window(100, SECOND),)), 90, 300),
        (Spec(None, 1, (Window(400, 4 * SECOND),)), 90, 300),
    ],
    ids=["little-in-topic", "second", "window-alone"],
)
def test_who_comes_new_stops_no_flow(spec, offered, called, step):
    mesh = Mesh({"s": spec}, 1, step=step)
    Topic(mesh, offered)
    mesh.run(BEFORE)
    procs = [mesh.proc(f"p{number}") for number in range(3)]
    for number, proc in enumerate(procs):
        mesh.events.after(number * 30 * MS, call, proc, 3 * SECOND // called)
    mesh.run(AFTER)
    queue, calls = cells(mesh, "queue"), cells(mesh, *[proc.name for proc in procs])
    assert not over(spec, mesh.uses["s"])
    assert stillest(queue) <= MOST_STILL
    assert stillest([sum(both) for both in zip(queue, calls, strict=True)]) <= MOST_STILL
    assert sum(calls[20:]) >= 0.9 * 4 * (spec.windows[0].per_second - offered) / 2  # within two periods


@pytest.mark.parametrize("rest", [3, 40], ids=["a while", "some leases"])
def test_who_has_rested_goes_on_at_once(rest):
    """What nobody else wants stays where it is: to ask for it anew takes half a second."""
    mesh = Mesh({"s": Spec(Fraction(1000), 1000, (Window(1000, SECOND),))}, 1)
    proc = mesh.proc("p")
    call_for(5, proc, 5 * MS)
    mesh.run(rest)
    assert [proc.check(NAMES) for _ in range(100)] == [None] * 100


def test_what_rests_is_anothers_as_soon_as_he_wants_it():
    spec = Spec(Fraction(100), 100, (Window(100, SECOND),))
    mesh = Mesh({"s": spec}, 1)
    rested, other = mesh.proc("p"), mesh.proc("q")
    call_for(5, rested, 5 * MS)
    mesh.run(4)
    call_for(4, other, 5 * MS)
    assert not over(spec, mesh.uses["s"])
    assert sum(units for at, units in mesh.by_proc["q"] if at >= mesh.events.now - 3 * SECOND) >= 0.95 * 300


@pytest.mark.parametrize("rate", [100, 1000], ids=["burst and rate", "burst alone"])
def test_what_rests_is_taken_back_where_the_limit_is_lowered(rate):
    mesh = Mesh({"s": Spec(Fraction(1000), 1000, ())}, 1)
    procs = [mesh.proc("p"), mesh.proc("q")]
    for proc in procs:
        call_for(4, proc, 5 * MS)
    mesh.run(3)
    mesh.limits["s"] = Spec(Fraction(rate), 100, ())
    assert mesh.host.owner is not None
    mesh.host.owner.reload(mesh.host.now)
    mesh.run(12)
    parts = [held.part.spec for proc in procs if (held := proc.holder.holding("s")).part is not None]
    assert sum(part.burst for part in parts) <= 100
    assert sum(part.scale for part in parts) <= rate * 10**9


def test_a_window_on_its_way_down_leaves_its_share_of_what_no_longer_counts():
    ledger = Ledger(100, SECOND)
    for tenth in range(10):
        ledger.add(tenth * SECOND // 10, 10)
    limits, used = [], []
    for tenth in range(10, 21):
        now = tenth * SECOND // 10
        ledger.limit = ledger.lower(now, 40)
        limits.append(ledger.limit)
        used.append(max(0, ledger.room(now)))
        ledger.add(now, used[-1])
    assert limits == [90, 84, 78, 73, 67, 62, 56, 51, 45, 40, 40]
    assert used == [0, 4, 4, 5, 4, 5, 4, 5, 4, 5, 0]
    assert ledger.slide is None
