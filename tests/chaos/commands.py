"""Commands on a large backlog, amid kills: `python -m tests.chaos.commands --parked 100000 --kills 20 --seed 1`.

A third is cancelled and a third moved to another lane while the service goes on and its owners are killed, most of them
in the middle of a batch of the commands. In the end each request has one end, what was cancelled was not admitted and
nothing else was cancelled, and the counts that were told are those of the topics, and those of the audit.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGKILL
from time import monotonic

from aiokafka import AIOKafkaProducer

from gate.client import Filter, GateControl
from gate.kafka.local import LocalBroker
from gate.protocol.answers import FINAL, Answer, AnswerState, decode_answer, decode_audit
from gate.protocol.headers import parse_stamp
from gate.protocol.topics import Names
from tests.chaos import topics
from tests.sim.checker import Committed
from tests.system.gates import GateProcess, create

PREFIX = "commands"
SERVICE = "pay"
PARTITIONS = 4
NAMES = Names(PREFIX)
CANCELLED, MOVED, LEFT = "acme", "beta", "gamma"
POLICY = (
    "services: {{pay: {{requests_per_second: {rate}, window_size: 1, max_delay: 10000d,"
    " priorities: {{high: 6, low: 1}}}}}}"
)
SLOW, FAST, STILL = "50, burst_size: 50", "1000000, burst_size: 1000000", "1/h, burst_size: 1"
# a batch that has parked something goes through `after-produce`, too: none does here
POINTS = ("after-decide", "in-produce", "before-commit", "in-commit", "after-commit")
BATCHES = (2, 6)  # of an owner's life
AT_ANY_TIME = 0.25  # of the kills: not at a point
GATES = 2
PATIENCE = 600.0  # seconds
POLL = 0.05


@dataclass(slots=True)
class Found:
    """What a run came to."""

    parked: int
    kills: int = 0  # while a command was under way
    took: float = 0.0  # seconds from the commands to their ends
    answers: dict[str, Answer] = field(default_factory=dict)  # the last ones, by what was commanded
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)  # requests, by tenant and how they ended
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Sequence[str]:
        """Return the report for a terminal."""
        told = ", ".join(f"{what} {a.done} of {a.of} ({a.state})" for what, a in sorted(self.answers.items()))
        ends = ", ".join(f"{tenant} {end} {count}" for (tenant, end), count in sorted(self.ends.items()))
        return [
            f"{self.parked} parked, {self.kills} SIGKILLs amid commands, which took {self.took:.0f} s",
            f"told: {told}",
            f"ends: {ends}",
            *self.problems[:20],
            f"{len(self.problems)} anomalies",
        ]


async def offer(bootstrap: str, parked: int) -> None:
    """Send requests of three tenants, first those of two in turns, then those that are to be moved."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=20)
    await producer.start()
    third, pending = parked // 3, []
    tenants = [(CANCELLED, LEFT)[n % 2] for n in range(2 * third)] + [MOVED] * (parked - 2 * third)
    try:
        for number, tenant in enumerate(tenants):
            headers = [("gate-tenant", tenant.encode()), ("gate-priority", b"low")]
            value, part = b"%s-%d" % (tenant.encode(), number), number // 2 % PARTITIONS
            pending.append(await producer.send(NAMES.requests(SERVICE), value, headers=headers, partition=part))
            if len(pending) >= 1_000:
                await asyncio.gather(*pending)
                pending.clear()
        await asyncio.gather(*pending)
    finally:
        await producer.stop()


class Gates:
    """Gates that are killed one after another, until they have been as often as wanted."""

    def __init__(self, folder: Path, bootstrap: str, random: Random, say: Callable[[str], None]) -> None:
        self._folder, self._bootstrap, self._random, self._say = folder, bootstrap, random, say
        self._number = 0
        self._live: list[tuple[GateProcess, str]] = []

    def start(self, rate: str, point: str = "") -> GateProcess:
        """Start a gate, which kills itself at a point."""
        self._number += 1
        place = self._folder / f"gate{self._number}"
        place.mkdir()
        env = {"GATE_FAILPOINT": point} if point else {}
        process = GateProcess(place, self._bootstrap, PREFIX, POLICY.format(rate=rate), "--http", "0", env=env)
        self._live.append((process, point))
        return process

    def _draw(self) -> str:
        if self._random.random() < AT_ANY_TIME:
            return ""
        return f"{self._random.choice(POINTS)}:{self._random.randrange(*BATCHES)}"

    async def kill(self, kills: int, work: "asyncio.Task[dict[str, Answer]]") -> int:
        """Keep two gates running, of which owners die, until `work` is done; return how many died before that."""
        died = 0
        for _ in range(GATES):
            self.start(SLOW, self._draw())
        at = monotonic() + self._random.uniform(2, 6)
        while not work.done() and died < kills:
            await asyncio.sleep(POLL)
            for process, point in list(self._live):
                if not point and monotonic() > at:  # of those without a point, one now and then
                    process.kill()
                    at = monotonic() + self._random.uniform(2, 6)
                if process.process.poll() is not None:
                    self._live.remove((process, point))
                    process.close()
                    if process.process.returncode != -SIGKILL:
                        raise RuntimeError(f"a gate ended by itself:\n{process.text()[-2000:]}")
                    died += 1
                    self._say(f"kill {died} of {kills}: {point or 'at any time'}")
                    self.start(SLOW, self._draw() if died + len(self._live) < kills else "")
        return died

    async def settle(self) -> None:
        """Kill all that are left: others take over that live on."""
        for process, _ in self._live:
            process.kill()
            process.close()
        self._live.clear()

    def close(self) -> None:
        """End all."""
        for process, _ in self._live:
            process.close()


async def command(bootstrap: str) -> dict[str, Answer]:
    """Cancel what is of one tenant and move what is of another, both at once; return the last answers."""
    async with GateControl(bootstrap, prefix=PREFIX, who="chaos") as control:
        cancelled, moved = await asyncio.gather(
            control.cancel(SERVICE, Filter(tenant=CANCELLED), reason="a third goes"),
            control.move(SERVICE, Filter(tenant=MOVED), "high", reason="a third goes first"),
        )
    return {"cancel": cancelled, "move": moved}


async def judge(bootstrap: str, parked: int, found: Found, admitted_before: Counter[str]) -> None:
    """Read everything that is there, and note what should not be."""
    note, ends, cancelled = found.problems.append, dict[str, list[str]](), 0
    asked: dict[str, str] = {}
    async for record in topics.read(bootstrap, [NAMES.requests(SERVICE)]):
        tenant = _tenant(record)
        asked[f"{NAMES.requests(SERVICE)}-{record.partition}@{record.offset}"] = tenant
    for topic, kind in ((NAMES.admitted(SERVICE), "admitted"), (NAMES.rejected(SERVICE), "rejected")):
        async for record in topics.read(bootstrap, [topic]):
            stamp = parse_stamp(dict(record.headers)["gate"] or b"")
            end = kind if kind == "admitted" else str(stamp.reason)
            ends.setdefault(stamp.id, []).append(end)
            cancelled += end == "cancelled"
    if len(asked) != parked + 1:
        note(f"{len(asked)} requests are there, not {parked + 1}")
    for request, tenant in asked.items():
        how = ends.pop(request, [])
        found.ends[tenant, "+".join(how) or "none"] += 1
        if len(how) != 1:
            note(f"{request} of {tenant} has {len(how)} ends: {how}")
        elif how[0] != "admitted" and (how[0], tenant) != ("cancelled", CANCELLED):
            note(f"{request} of {tenant} ended as {how[0]}")
    if ends:
        note(f"{len(ends)} outputs are of no request: {sorted(ends)[:5]}")
    of = {what: sum(n for (t, _), n in found.ends.items() if t == tenant) - admitted_before[tenant]
          for what, tenant in (("cancel", CANCELLED), ("move", MOVED))}  # fmt: skip
    for what, answer in found.answers.items():
        if answer.state is not AnswerState.DONE or answer.gone:
            note(f"{what} ended as {answer}")
        if answer.of is None or answer.done > answer.of or answer.of > of[what]:
            note(f"{what} was about {answer.of}, of which {answer.done} were done; {of[what]} waited at most")
    if found.answers["cancel"].done != cancelled:
        note(f"{cancelled} were cancelled, and {found.answers['cancel'].done} told")
    await judge_words(bootstrap, found)


async def judge_words(bootstrap: str, found: Found) -> None:
    """Note where gate.answers or gate.audit say something else than was told."""
    note, last = found.problems.append, dict[str, set[tuple[object, ...]]]()
    async for record in topics.read(bootstrap, [NAMES.answers]):
        answer = decode_answer(record.value)
        if answer.state in FINAL:
            last.setdefault(answer.command, set()).add((answer.state, answer.done, answer.of))
    audits = [decode_audit(r.value) async for r in topics.read(bootstrap, [NAMES.audit])]
    for what, answer in found.answers.items():
        if last.get(answer.command) != {(answer.state, answer.done, answer.of)}:
            note(f"{what}: the last answers in the topic are {last.get(answer.command)}, the one told was {answer}")
        mine = [audit for audit in audits if audit.command == answer.command]
        said = [(a.what, a.who, bool(a.reason), a.result, a.after["done"]) for a in mine]
        if said != [(what, "chaos", True, AnswerState.DONE, answer.done)]:
            note(f"{what}: the audit says {said}, the answer {answer}")


async def check_lanes(bootstrap: str, found: Found) -> None:
    """Note where other requests wait in a lane than should: nothing is admitted now."""
    async with GateControl(bootstrap, prefix=PREFIX) as control:
        of = {
            lane: (await control.cancel(SERVICE, Filter(lane=lane), dry_run=True)).of or 0 for lane in ("high", "low")
        }
    went = await tenants_of(bootstrap, NAMES.admitted(SERVICE))
    each = found.parked - 2 * (found.parked // 3)
    left = found.parked // 3 + 1 - went[LEFT]
    if of != {"high": each - went[MOVED], "low": left}:
        found.problems.append(f"{of} wait, and {went} were admitted of {each} each")


async def tenants_of(bootstrap: str, topic: str) -> Counter[str]:
    """Count committed records by tenant."""
    return Counter([_tenant(record) async for record in topics.read(bootstrap, [topic])])


def _tenant(record: Committed) -> str:
    return (dict(record.headers).get("gate-tenant") or b"").decode()


async def grown(bootstrap: str, topics_: Sequence[str], wanted: int, what: str) -> None:
    """Wait until so many committed records are in topics."""
    end = monotonic() + PATIENCE
    seen = 0
    async for _ in _until(topics.follow(bootstrap, topics_), end, what):
        seen += 1
        if seen >= wanted:
            return


async def _until(records: AsyncIterator[object], end: float, what: str) -> AsyncIterator[object]:
    try:
        async with asyncio.timeout(end - monotonic()):
            async for record in records:
                yield record
    except TimeoutError:
        raise RuntimeError(f"{what} within {PATIENCE:g} s") from None


async def run(folder: Path, *, parked: int, kills: int, seed: int, say: Callable[[str], None] = print) -> Found:
    """Park, command, kill, let the rest go, and judge."""
    found, random = Found(parked), Random(f"commands {seed}")
    broker = await asyncio.to_thread(LocalBroker.start)
    gates = Gates(folder, broker.bootstrap, random, say)
    try:
        requests, admitted = NAMES.requests(SERVICE), NAMES.admitted(SERVICE)
        rejected, delayed = NAMES.rejected(SERVICE), NAMES.delayed(SERVICE)
        await create(broker.bootstrap, requests, admitted, rejected, delayed, partitions=PARTITIONS)
        gates.start(SLOW)
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            await producer.send_and_wait(requests, b"first", headers=[("gate-tenant", LEFT.encode())], partition=0)
        await grown(broker.bootstrap, [admitted], 1, "no gate admitted the first request")
        await offer(broker.bootstrap, parked)
        await grown(broker.bootstrap, [delayed, admitted], parked + 1, "not all requests were decided")
        say(f"{parked} are parked")
        await gates.settle()
        before = await tenants_of(broker.bootstrap, admitted)
        begun = monotonic()
        work = asyncio.create_task(command(broker.bootstrap))
        found.kills = await gates.kill(kills, work)
        if not work.done():
            gates.start(SLOW)
        found.answers = await asyncio.wait_for(work, PATIENCE)
        found.took = monotonic() - begun
        await gates.settle()
        gates.start(STILL)
        await check_lanes(broker.bootstrap, found)
        await gates.settle()
        say("commands are done; the rest is let go")
        gates.start(FAST)
        await grown(broker.bootstrap, [admitted, rejected], parked + 1, "not all requests had an end")
        await judge(broker.bootstrap, parked, found, before)
        if found.kills < kills:
            found.problems.append(f"the commands were done after {found.kills} of {kills} kills")
    finally:
        gates.close()
        await asyncio.to_thread(broker.stop)
    return found


def main() -> int:
    """Run once; exit 1 on any anomaly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parked", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="commands-") as folder:
        found = asyncio.run(run(Path(folder), parked=given.parked, kills=given.kills, seed=given.seed))
    print("\n".join(found.lines()))
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
