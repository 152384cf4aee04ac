"""Waiting well, measured under a simulated clock: `make scenarios`. Each line is a promise with its bound."""

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import median

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, SECOND, Run, Verdict
from gate.client._throttle import Throttle
from gate.limits import Spec, Window
from gate.policy import ServicePolicy
from tests.admission.simulation import Simulation
from tests.client.pipelines import Pipeline, World

START = 1_764_000_000 * SECOND
ROOM = 1_000  # parked requests that a step may pull
LANES = {"interactive": Fraction(6), "default": Fraction(3), "batch": Fraction(1)}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured promise."""

    scenario: str
    what: str
    value: float
    unit: str
    bound: float
    at_least: bool = False  # else: at most

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def spec(rate: object, burst: int, **windows: int) -> Spec:
    made = tuple(Window(limit, int(name[1:]) * SECOND) for name, limit in windows.items())
    return Spec(Fraction(rate), burst, made)


def policy(limits: Spec, **said: object) -> ServicePolicy:
    return ServicePolicy("svc", limits, **said)


def over(limits: Spec, history: object) -> int:
    """Return by how many units bucket or a true window was exceeded at most; 0: never."""
    tokens, last, worst = Fraction(limits.burst), START, Fraction(0)
    for at, _, count in history.admissions:
        tokens = min(Fraction(limits.burst), tokens + limits.rate * (at - last) / SECOND) - count
        worst, last = max(worst, -tokens), at
    return max([int(worst), *(over_window(window, history.admissions) for window in limits.windows)])


def over_window(window: Window, admissions: list[tuple[int, int, int]]) -> int:
    first = used = worst = 0
    for at, _, count in admissions:
        used += count
        while admissions[first][0] <= at - window.size:
            used -= admissions[first][2]
            first += 1
        worst = max(worst, used - window.limit)
    return worst


def ten_thousand_at_ten_per_minute() -> Iterator[Figure]:
    limits = spec(Fraction(10, 60), 10, w60=10)
    sim = Simulation(policy(limits), now=START)
    for _ in range(10):
        sim.offer(1_000)
    sim.drain()
    history = sim.history
    late = (history.admitted_at[-1] - START) / SECOND - (10_000 - 10) * 6
    errors = [abs(at - stamp) / MS for at, stamp in zip(history.admitted_at, history.not_before, strict=True) if stamp]
    name = "10,000 at 10/min"
    yield Figure(name, "after the ideal time", late, "s", 1)
    yield Figure(name, "decisions per request", max(history.decisions), "", 2)
    yield Figure(name, "error of not-before", max(errors), "ms", 1)
    yield Figure(name, "out of order", sum(b < a for a, b in pairwise(history.admitted_at)), "", 0)
    yield Figure(name, "over the limit", over(limits, history), "units", 0)


def weights_under_saturation() -> Iterator[Figure]:
    sim = Simulation(policy(spec(100, 10), lanes=LANES), now=START)
    sim.submit(*[Run(n, 1, name) for n, name in enumerate(list(LANES) * 3_000)])
    sim.run_until(START + 12 * SECOND)
    order = [n for _, first, count in sim.history.admissions for n in range(first, first + count)][10:1_010]
    shares = [sum(n % 3 == lane for n in order) / 1_000 for lane in range(3)]
    worst = max(abs(share - ideal) for share, ideal in zip(shares, (0.6, 0.3, 0.1), strict=True))
    yield Figure("weights 6:3:1", "share off over 1,000", worst * 100, "%", 1)
    sim = Simulation(policy(spec(100, 10), lanes=LANES), now=START)
    for _ in range(10):
        sim.offer(1_000, lane="batch")
    sim.run_until(START + 60 * SECOND)
    used = sum(count for _, _, count in sim.history.admissions) / (10 + 60 * 100)
    yield Figure("idle lanes", "of the limit used by the only busy one", used * 100, "%", 99.9, at_least=True)
    sim.offer(1, lane="interactive")
    sim.run_until(START + 61 * SECOND)
    waited = (sim.history.admitted_at[-1] - sim.history.submitted_at[-1]) / (10 * MS)
    yield Figure("idle lanes", "turns until its share is back", waited, "turns", 2)


def a_tenant_floods() -> Iterator[Figure]:
    sim = Simulation(policy(spec(1_000, 1)), now=START)
    for _ in range(100):
        sim.offer(1_000, tenant="flood")
    sim.run_until(START + SECOND)
    sim.offer(1, tenant="calm")
    sim.run_until(START + 2 * SECOND)
    waited = (sim.history.admitted_at[100_000] - sim.history.submitted_at[100_000]) / (2 * MS)
    yield Figure("100,000 of one tenant", "another's request waits", waited, "fair turns", 2)


def a_thousand_tenants() -> Iterator[Figure]:
    sim = Simulation(policy(spec(1_000, 1)), now=START)
    tenants, each = 1_000, 20
    for tenant in range(tenants):  # some offer ten times as much as others
        sim.submit(Run(0, each * (1 + 9 * (tenant % 2)), tenant=f"t{tenant}"))
    whose = [t for t in range(tenants) for _ in range(each * (1 + 9 * (t % 2)))]
    sim.run_until(START + 10 * SECOND)
    counts = [0] * tenants
    for number, at in enumerate(sim.history.admitted_at):
        counts[whose[number]] += bool(at)
    jain = sum(counts) ** 2 / (tenants * sum(count * count for count in counts))
    yield Figure("1,000 tenants", "Jain's index", jain, "", 0.99, at_least=True)


def a_limit_changes_under_a_backlog() -> Iterator[Figure]:
    limits = {rate: spec(rate, rate, w60=60 * rate) for rate in (100, 10, 1_000)}
    sim = Simulation(policy(limits[100]), now=START)
    for _ in range(50):
        sim.offer(1_000)
    worst = 0
    for rate, seconds in ((100, 100), (10, 300)):
        began, before = sim.now, len(sim.history.admissions)
        sim.set_policy(policy(limits[rate]))
        sim.run_until(began + seconds * SECOND)
        part = [entry for entry in sim.history.admissions[before:] if entry[0] >= began + 60 * SECOND]
        worst = max(worst, over_window(limits[rate].windows[0], part))
    sim.set_policy(policy(limits[1_000]))
    began, left = sim.now, sim.engine.waiting
    sim.drain()
    name = "100/s, 10/s, 1,000/s under 50,000"
    yield Figure(name, "over a true window", worst, "units", 0)
    ideal = left / 1_000
    yield Figure(name, "drained beyond the ideal", ((sim.now - began) / SECOND / ideal - 1) * 100, "%", 2)


def workers_stop() -> Iterator[Figure]:
    sim = Simulation(policy(spec(1_000, 1_000), max_in_flight=500), now=START)
    batch, done = 100, 0
    for tick in range(100):
        sim.run_until(START + tick * 100 * MS)
        admitted = sum(count for _, _, count in sim.history.admissions)
        done = admitted if tick < 20 else done  # then the workers stop
        sim.engine.set_in_flight(sim.now, admitted - done)
        sim.offer(batch)
    admitted = sum(count for _, _, count in sim.history.admissions)
    yield Figure("workers stop", "in flight beyond the bound", admitted - done - 500, "requests", batch)
    left, began = sim.engine.waiting, sim.now
    while sim.engine.waiting and sim.now < began + 60 * SECOND:
        sim.engine.set_in_flight(sim.now, 0)
        sim.run_until(sim.now + 100 * MS)
    yield Figure("workers go on", f"time for {left:,} that waited", (sim.now - began) / SECOND, "s", left / 1_000 + 2)


def a_pipeline_is_paced() -> Iterator[Figure]:
    limits = "requests_per_second: 1000, burst_size: 100, window_size: null"
    for max_wait in (30.0, 2.0):
        done = World(limits, [Pipeline(Throttle(max_wait=max_wait), 60_000)]).run(70)
        name = f"60,000 items paced at 1,000/s, max_wait {max_wait:g} s"
        yield Figure(name, "beyond the ideal 60 s", ((done.finished or inf) / 60 - 1) * 100, "%", 2)
        yield Figure(name, "longest wait of the backlog after 1 s", done.worst(1.0), "s", max_wait)


def a_million_parked() -> Iterator[Figure]:
    yield from million("alike, every offset apart", 2, lambda _: [Run(0, 2_000)])
    yield from million(
        "three lanes", 1, lambda _: [Run(0, 700, "interactive"), Run(700, 700), Run(1_400, 600, "batch")], LANES
    )
    yield from million(
        "1,000 tenants, costs and deadlines", 1,
        lambda batch: [
            Run(n, 1, "", f"tenant-{(n * 7 + batch) % 1_000}", 1 + n % 5, START + (10**6 + batch * 2_000 + n) * SECOND)
            for n in range(2_000)
        ],
    )  # fmt: skip


class Queueing:
    """An engine that keeps up with its limits while more comes than they admit, and the state that it has written."""

    def __init__(self, gap: int, make: Callable[[int], list[Run]], lanes: object) -> None:
        said = {} if lanes is None else {"lanes": lanes}
        self.engine = Engine("svc", policy(spec(100, 150, w60=6_000), **said), Budgets(START, {}), START, "1")
        self.state: dict[str, bytes] = {}
        self._make, self._gap = make, gap
        self._batch = self._offset = 0

    def park(self) -> float:
        """Take one batch; return the seconds of CPU that each of its requests took."""
        runs = self._make(self._batch)
        began = time.process_time()
        step = self.engine.step(START + self._batch * MS, runs, ROOM)
        took = time.process_time() - began
        count = sum(decision.count for decision in step.decisions if decision.verdict is Verdict.DELAYED)
        self.engine.parked([(0, self._offset + n * self._gap) for n in range(count)])
        self._offset += count * self._gap + 1
        self._batch += 1
        for key, value in self.engine.drain_changes().items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        return took / sum(run.count for run in runs)


def million(name: str, gap: int, make: Callable[[int], list[Run]], lanes: object = None) -> Iterator[Figure]:
    """Park a million requests, `gap` offsets from one another, and see what that costs."""
    full = Queueing(gap, make, lanes)
    while full.engine.waiting < 1_000_000:
        full.park()
    # Beside one another, batch by batch: minutes apart they would compare two states of the machine and of its memory.
    empty = Queueing(gap, make, lanes)
    for _ in range(5):
        empty.park()
    gc.collect()
    pairs = [(empty.park(), full.park()) for _ in range(40)]
    early, late = (median(part) for part in zip(*pairs, strict=True))
    engine, state = full.engine, full.state
    scenario = f"1,000,000 parked: {name}"
    yield Figure(scenario, "stamping, full against nearly empty", late / early, "x", 1.2)
    yield Figure(scenario, "stamping", late * 1e6, "us/request", 40)
    tracemalloc.start()
    restored = Engine.restore("svc", engine.policy, Budgets(START, {}), engine.now, "1", state)
    gc.collect()
    memory = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    assert restored.waiting == engine.waiting
    yield Figure(scenario, "memory", memory, "MB", 50)
    del restored
    began = time.process_time()
    Engine.restore("svc", engine.policy, Budgets(START, {}), engine.now, "1", state)
    yield Figure(scenario, f"restored from {len(state):,} records", time.process_time() - began, "s", 2)
    yield Figure(scenario, "records", sum(map(len, state.values())) / 1e6, "MB", 50)


SCENARIOS = (
    ten_thousand_at_ten_per_minute,
    weights_under_saturation,
    a_tenant_floods,
    a_thousand_tenants,
    a_limit_changes_under_a_backlog,
    workers_stop,
    a_pipeline_is_paced,
    a_million_parked,
)


def main() -> int:
    """Run all scenarios, or those whose names hold an argument; print the figures and write build/scenarios.json."""
    figures = []
    print(f"{'scenario':<52} {'what':<42} {'figure':>12} {'bound':>14}")
    for scenario in SCENARIOS:
        if len(sys.argv) > 1 and not any(word in scenario.__name__ for word in sys.argv[1:]):
            continue
        for figure in scenario():
            figures.append(figure)
            sign = ">=" if figure.at_least else "<="
            value, bound = f"{figure.value:.4g} {figure.unit}", f"{sign} {figure.bound:g}"
            mark = "" if figure.holds else "  DOES NOT HOLD"
            print(f"{figure.scenario:<52} {figure.what:<42} {value:>18} {bound:>8}{mark}", flush=True)
    path = Path("build/scenarios.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([asdict(figure) | {"holds": figure.holds} for figure in figures], indent=1))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
