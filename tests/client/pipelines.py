"""Pipelines that a throttle slows down, before a gate whose engine is the real one, in simulated time."""

import heapq
from dataclasses import dataclass, field

from gate.client._throttle import Throttle
from gate.client._usage import decode
from gate.observe.usage import encode, to_json
from gate.policy import parse_policy
from tests.admission.simulation import Simulation

TICK = 0.01  # s
SECOND = 10**9
EPOCH = 1_764_025_122 * SECOND
SERVICE = "pay"


def policy_of(fields: str):
    return parse_policy(f"services: {{{SERVICE}: {{{fields}}}}}").service(SERVICE)


@dataclass
class Pipeline:
    """Wants to release `left` items from `since` on."""

    throttle: Throttle
    left: int
    since: float = 0.0
    lane: str = ""
    cost: int = 1
    released: list[tuple[float, int]] = field(default_factory=list)

    def between(self, start: float, end: float) -> int:
        return sum(count for at, count in self.released if start <= at < end)


@dataclass
class World:
    """A gate and its pipelines. `delay(at)` is how late a report comes, s; `away` are the spans without a gate, s."""

    policy: str
    pipelines: list[Pipeline]
    delay: object = lambda _: 0.02
    transit: float = 0.05
    copies: int = 1
    away: list[tuple[float, float]] = field(default_factory=list)
    changes: dict[float, str] = field(default_factory=dict)
    others: object = lambda _: 0  # requests per tick of those that ask no pacer
    waits: list[tuple[float, float]] = field(default_factory=list)  # at, ETA of the backlog
    finished: float | None = None

    def __post_init__(self):
        self.gate = Simulation(policy_of(self.policy), now=EPOCH)

    def is_there(self, now: float) -> bool:
        return not any(start <= now < end for start, end in self.away)

    def run(self, seconds: float, *, until_done: bool = True) -> "World":
        arriving, reports, number, next_report, log = [], [], 0, 0.0, []
        for tick in range(round(seconds / TICK)):
            now = tick * TICK
            for pipeline in self.pipelines:
                count = 0
                while now >= pipeline.since and pipeline.left and not pipeline.throttle.take(now):
                    pipeline.left -= 1
                    count += 1
                if count:
                    pipeline.released.append((now, count))
                    heapq.heappush(arriving, (now + self.transit, number := number + 1, count, pipeline))
            if extra := self.others(now):
                heapq.heappush(arriving, (now, number := number + 1, extra, None))
            while reports and reports[0][0] <= now:
                _, _, value = heapq.heappop(reports)
                usage = decode(value)
                for pipeline in self.pipelines:
                    pipeline.throttle.report(now, usage.report(pipeline.lane, pipeline.cost))
            if self.is_there(now):
                time = EPOCH + round(now * 1000) * SECOND // 1000
                for at in [at for at in self.changes if at <= now]:
                    self.gate.set_policy(policy_of(self.changes.pop(at)))
                self.gate.run_until(time, late=lambda: 9 * SECOND // 1000)  # a step per tick is enough
                while arriving and arriving[0][0] <= now:
                    _, _, count, pipeline = heapq.heappop(arriving)
                    self.gate.offer(
                        count, lane=pipeline.lane if pipeline else "", cost=pipeline.cost if pipeline else 1
                    )
                    log.append(count)
                if now >= next_report and log:
                    next_report = now + 1.0
                    value = encode(to_json(self.gate.engine.usage(time)))
                    for copy in range(self.copies):
                        heapq.heappush(reports, (now + self.delay(now) + 0.3 * copy, number := number + 1, value))
            if tick % 4:
                continue
            usage = self.gate.engine.usage(self.gate.now)
            on_the_way = sum(count for _, _, count, _ in arriving)
            self.waits.append((now, usage.eta_seconds + on_the_way / max(1e-9, usage.limits[0].per_second)))
            if not any(pipeline.left for pipeline in self.pipelines) and not arriving and not usage.backlog:
                self.finished = self.finished or now
                if until_done:
                    break
        return self

    def worst(self, start: float, end: float = 1e9) -> float:
        return max((wait for at, wait in self.waits if start <= at < end), default=0.0)

    def least(self, start: float, end: float) -> float:
        return min(wait for at, wait in self.waits if start <= at < end)
