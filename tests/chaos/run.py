"""A chaos run: offer, break, wait, read everything, judge."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from gate.kafka.local import LocalBroker
from gate.policy import Policy, parse_policy
from gate.protocol.headers import read_options
from gate.protocol.topics import Names
from gate.shard.placement import shard_of
from tests.chaos import faults, judge, load, replay, topics
from tests.chaos.load import NAMES, PARTITIONS, PREFIX, SATURATED, SHARDS, SHARES
from tests.chaos.members import Incident, Members, counts
from tests.sim.checker import STAMP, Checker, Committed
from tests.system.gates import create

SESSION = 2.0  # seconds
HALF_DONE = "the broker has left a transaction half-done"
RATIO = 0.999
DRAIN = 300.0  # seconds without any further request that has an end
STEP = 100  # requests
BROKER_PROPERTIES = {"log.cleaner.enable": "false"}  # the changelog stays whole, to be compared at each kill
SETTLED = SESSION + 1.5  # seconds after another one in which a fault's consequences are not its own
HELD_OFF = SESSION + 4.0  # seconds after a fault in which an outage is its consequence


@dataclass
class Report:
    """What a run came to."""

    seed: int
    problems: list[str] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    offered: int = 0
    ends: Mapping[str, int] = field(default_factory=dict)
    uses: Mapping[str, judge.Use] = field(default_factory=dict)
    silences: Sequence[judge.Silence] = ()
    moments: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of decisions, by service, ms
    arrived: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of requests, by service, ms
    times: dict[str, float] = field(default_factory=dict)  # seconds per phase
    missed: int = 0
    torn: int = 0  # transactions that the broker left half-done, and a gate ended
    notes: list[str] = field(default_factory=list)
    gate_errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def kills(self) -> Mapping[str, int]:
        """SIGKILLs of gates, by point ("kill": at any time)."""
        found = counts(self.incidents)
        return {name: found.get(name, 0) for name in ("kill", *faults.POINTS)}

    def _pauses(self, use: judge.Use) -> str:
        begun = min((incident.at for incident in self.incidents), default=0.0)
        longest = sorted(use.idle_ms, key=lambda pause: pause[0] - pause[1])[:3]
        return ", ".join(f"{b - a} ms at {a / 1e3 - begun:.1f} s" for a, b in longest) or "none"

    def lines(self) -> Iterator[str]:
        """Yield the report for a terminal."""
        yield f"seed {self.seed}: {self.offered:,} requests, {sum(self.kills.values())} SIGKILLs of gates"
        yield "  kills:  " + ", ".join(f"{name} {count}" for name, count in self.kills.items())
        kinds = {"pause", "leave", "broker", "resume", "hijack"}
        other = {k: v for k, v in counts(self.incidents).items() if k in kinds}
        shifted = sum("clock" in incident.kind for incident in self.incidents)
        yield f"  others: {', '.join(f'{k} {v}' for k, v in sorted(other.items()))}, lives with a wrong clock {shifted}"
        yield "  ends:   " + ", ".join(f"{name} {count:,}" for name, count in self.ends.items())
        for kind, bound in (("kill", SESSION + 2), ("leave", 1.0)):
            found = [s.ms for s in self.silences if (s.kind == "leave") == (kind == "leave")]
            yield (
                f"  time without decisions after a {kind}: p50 {judge.quantile(found, 0.5) / 1e3:.2f} s,"
                f" p99 {judge.quantile(found, 0.99) / 1e3:.2f} s of {len(found)} shards (bound {bound:g} s)"
            )
        for name, use in self.uses.items():
            yield (
                f"  {name}: {use.admitted:,} of {use.allowed:,} admitted outside outages ({use.ratio:.3%}),"
                f" outages {use.outage_ms / 1e3:.1f} s, longest unexplained pauses {self._pauses(use)}"
            )
        if self.torn:
            yield f"  {self.torn} transactions were left half-done by the broker, and ended by who took over"
        yield "  time:   " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.times.items())
        yield from (f"  {note}" for note in self.notes)
        if self.missed:
            yield f"  {self.missed} times a gate did not come to its point in time and was killed where it stood"
        for error, count in sorted(self.gate_errors.items(), key=lambda item: -item[1])[:12]:
            yield f"  log x {count}: {error}"
        yield f"  anomalies: {len(self.problems)}"
        yield from (f"    {problem}" for problem in self.problems[:60])


async def run(
    folder: Path,
    *,
    seed: int,
    kills: int,
    requests: int,
    gates: int = 3,
    broker_kills: int | None = None,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Offer `requests` within `seconds` while gates and the broker die as `seed` says; then judge what is there."""
    report = Report(seed)
    text = load.policy(requests / seconds)
    policy = parse_policy(f"prefix: {PREFIX}\n{text}")
    plan = faults.draw(seed, kills, gates, 0.85 * seconds, SESSION, broker_kills)
    clock = _Clock(report.times)
    broker = await asyncio.to_thread(LocalBroker.start, folder / "broker", properties=BROKER_PROPERTIES)
    members = Members(folder, broker.bootstrap, PREFIX, text, plan, say)
    try:
        await create(broker.bootstrap, *(NAMES.requests(s) for s in SHARES), partitions=PARTITIONS)
        clock.lap("start")
        offering = load.Offering(broker.bootstrap, requests, seconds, members.progress)
        await _live(members, offering, broker, plan, gates, 1.4 * seconds)
        report.offered = sum(offering.sent.values())
        clock.lap("faults")
        await drain(broker.bootstrap, report)
        clock.lap("drain")
        await asyncio.to_thread(members.stop)
        report.incidents, report.missed = members.incidents, members.missed
        report.gate_errors = errors_of(members.logs)
        report.torn = sum(log.read_text(errors="replace").count(HALF_DONE) for log in members.logs)
        await judge_topics(report, policy, broker.bootstrap)
        clock.lap("check")
    finally:
        members.close()
        await asyncio.to_thread(broker.stop)
    return report


class _Clock:
    def __init__(self, times: dict[str, float]) -> None:
        self._times, self._last = times, monotonic()

    def lap(self, name: str) -> None:
        now = monotonic()
        self._times[name], self._last = now - self._last, now


async def _live(
    members: Members, offering: load.Offering, broker: LocalBroker, plan: faults.Plan, gates: int, patience: float
) -> None:
    async def strike() -> None:
        begun = monotonic()
        for at in plan.broker_kills:
            await asyncio.sleep(begun + at - monotonic())
            start = time()
            members.broker.clear()
            await asyncio.to_thread(broker.restart)
            members.broker.set()
            members.note("broker", until=time())
            members.incidents[-1] = Incident(start, "broker", until=time())

    async def give_up() -> None:
        await asyncio.sleep(patience)
        members.give_up()

    async with asyncio.TaskGroup() as group:
        group.create_task(offering.run())
        breaking = group.create_task(strike())
        watch = group.create_task(give_up())
        await members.run(gates)
        await breaking
        watch.cancel()


async def drain(bootstrap: str, report: Report) -> None:
    """Wait until a reader that lives through it has seen an end of each request, as long as there are more and more."""
    names = [name for s in SHARES for name in (NAMES.admitted(s), NAMES.rejected(s))]
    wanted, seen = await topics.size(bootstrap, [NAMES.requests(s) for s in SHARES]), 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN) as limit:
            async for _ in topics.follow(bootstrap, names):
                seen += 1
                if seen >= wanted:
                    return
                if seen % STEP == 0:
                    limit.reschedule(asyncio.get_running_loop().time() + DRAIN)
    report.problems.append(f"stuck: {seen:,} of {wanted:,} requests are decided, and no more in {DRAIN:g} s")


def errors_of(logs: Sequence[Path]) -> dict[str, int]:
    """Count what gates complained about, numbers left out."""
    found: dict[str, int] = {}
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            if "[warning" in line or "[error" in line or "Traceback" in line or "Error" in line:
                words = " ".join(line.split(" ", 1)[-1].split())
                text = "".join("#" if c.isdigit() else c for c in words)
                found[text] = found.get(text, 0) + 1
    return found


async def judge_topics(
    report: Report,
    policy: Policy,
    bootstrap: str,
    *,
    idle: bool = True,
    whole: bool = True,
    names: Names = NAMES,
    shards: int = SHARDS,
    earlier: Sequence[Policy] = (),
) -> None:
    """Read everything that a run has left, and add what is wrong with it to the report.

    `idle` tells whether limits that were not used outside of outages are wrong; `whole`, whether the changelog still
    holds all that was written to it, so that it can be compared as of each kill, and not at the end alone. `policy`,
    `names` and `shards` are those in force at the end, `earlier` are the policies before.
    """
    checker = Checker(names, {one.version: one for one in (*earlier, policy)}, shards)
    kinds = {getattr(NAMES, kind)(s): (kind, s) for s in SHARES for kind in ("admitted", "delayed", "rejected")}
    histories = {s: judge.History() for s in SHARES}
    arrived: dict[str, list[int]] = {s: [] for s in SHARES}
    replays = {s: replay.Replay(policy.effective(s).spec) for s in SHARES}
    costs: dict[tuple[bytes, int, int], int] = {}
    places: dict[tuple[bytes, int, int], tuple[int, int]] = {}
    changelog: dict[int, list[tuple[str, bytes | None, int]]] = {n: [] for n in range(shards)}
    ends = dict.fromkeys(("requests", "admitted", "delayed", "rejected"), 0)

    def take(record: Committed) -> None:
        if record.topic == NAMES.alerts:
            if (alert := _plain_alert(record)) is None:
                return
            record = alert
        checker.feed(record)
        service = NAMES.service_of(record.topic)
        if service is not None:
            ends["requests"] += 1
            arrived[service].append(record.timestamp)
            cost = getattr(read_options(record.headers), "cost", 1)
            if cost != 1:
                costs[record.topic.encode(), record.partition, record.offset] = cost
        elif record.topic == names.state:
            changelog[record.partition].append(((record.key or b"").decode(), record.value, record.timestamp))
        elif record.topic in kinds:
            kind, service = kinds[record.topic]
            ends[kind] += 1
            found = STAMP.fullmatch(next((v for n, v in record.headers if n == "gate" and v), b""))
            if found is None:
                return
            origin = found[2], int(found[3]), int(found[4])
            at, attempt, cost = int(found[5]), int(found[6]), costs.get(origin, 1)
            histories[service].add(kind, at, attempt, cost)
            if kind == "delayed":
                places[origin] = record.partition, record.offset
                replays[service].parked(at, places[origin])
            elif attempt > 1 and origin in places:
                replays[service].left(at, places[origin])
            if kind == "admitted":
                replays[service].admitted(at, cost)

    for group in (
        [NAMES.requests(s) for s in SHARES],
        [NAMES.delayed(s) for s in SHARES],
        [name for s in SHARES for name in (NAMES.admitted(s), NAMES.rejected(s))],
        [names.state, names.alerts],
    ):
        async for record in topics.read(bootstrap, group):
            take(record)
    report.ends, report.arrived = ends, {s: sorted(moments) for s, moments in arrived.items()}
    if ends["requests"] < report.offered:
        report.problems.append(f"lost by the broker: {report.offered - ends['requests']} acknowledged requests")
    offsets = await topics.group_offsets(bootstrap, PREFIX)
    still_open = await topics.open_transactions(bootstrap, await topics.topics(bootstrap))
    report.problems += checker.finish(
        policy=policy,
        drained=True,
        offsets=offsets,
        open_transactions=still_open,
        last_fault_ms=int(1000 * max((i.at for i in report.incidents), default=0)),
        torn=report.torn > 0,
    )
    homes = {s: shard_of(policy.shard_key(s), shards) for s in SHARES}
    for service in replays.values():
        service.seal()
    for shard, log in changelog.items():
        cuts = [1000 * i.at for i in report.incidents if shard in i.shards] if whole else []
        mine = {s: replays[s] for s, number in homes.items() if number == shard}
        report.problems += [f"state: {problem}" for problem in replay.problems(shard, log, cuts, mine)][:20]
    _times(report, policy, histories, homes, idle=idle)


def _times(
    report: Report,
    policy: Policy,
    histories: Mapping[str, judge.History],
    shards: Mapping[str, int],
    *,
    idle: bool,
) -> None:
    spans = [(round(1000 * i.at), round(1000 * (max(i.until, i.at) + HELD_OFF))) for i in report.incidents]
    report.uses = {s: judge.use(histories[s], policy.effective(s).spec, spans) for s in SATURATED}
    report.problems += [
        f"idle: {name} admitted {use.admitted} of {use.allowed} ({use.ratio:.3%})"
        for name, use in report.uses.items()
        # a pause of OUTAGE_MS is none yet: one of them must not fail a run that is short
        if idle and use.admitted < RATIO * use.allowed - policy.effective(name).spec.rate * judge.OUTAGE_MS / 1000
    ]
    report.moments = {service: history.moments() for service, history in histories.items()}
    decided: dict[int, list[int]] = {}
    for service, moments in report.moments.items():
        decided.setdefault(shards[service], []).extend(moments)
    report.silences = judge.silences(
        [
            (round(1000 * i.at), i.kind, i.shards)
            for i in report.incidents
            if i.kind in {"kill", "leave", *faults.POINTS}
        ],
        {shard: sorted(set(moments)) for shard, moments in decided.items()},
        [round(1000 * t) for i in report.incidents if i.shards or i.kind == "broker" for t in {i.at, i.until or i.at}],
        round(1000 * SETTLED),
    )


def _plain_alert(record: Committed) -> Committed | None:
    """Return a breach alert in the form that the checker reads, None for another one."""
    kind = (dict(record.headers).get("ce_type") or b"").decode().removeprefix("gate.").removeprefix("breach.")
    if kind not in {"opened", "ongoing", "resolved", "near_limit"}:
        return None
    return record._replace(value=f"{kind} {json.loads(record.value or b'{}').get('since')}".encode())
