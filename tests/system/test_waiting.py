"""The scenarios of `make scenarios` in short, on a real broker: those who wait are told the truth, in fair turns."""

import asyncio
from collections import Counter
from fractions import Fraction
from pathlib import Path

from tests.system.gates import assert_never_over, create, gate, header, read_count, send, stamp, until

LATE_MS = 150
BURSTS = {"queue": 1, "steady": 5}
POLICY = """
defaults: {window_size: null}
services:
  queue: {requests_per_second: 25, burst_size: 1}
  steady: {requests_per_second: 25, burst_size: 5}
  lanes: {requests_per_second: 50, burst_size: 5, priorities: {interactive: 6, default: 3, batch: 1}}
  fair: {requests_per_second: 50, burst_size: 5, tenants: {default: {requests_per_second: 1000, burst_size: 1000}}}
  deep: {requests_per_second: 1/min, burst_size: 1}
"""


def lane(name: str) -> list[tuple[str, bytes]]:
    return [("gate-priority", name.encode())]


def tenant(name: str) -> list[tuple[str, bytes]]:
    return [("gate-tenant", name.encode())]


def resident(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) // 1024


async def test_who_waits_is_told_when_and_goes_in_fair_turns(bootstrap, prefix, tmp_path):
    topics = {name: f"{prefix}.requests.{name}" for name in ("queue", "steady", "lanes", "fair", "deep")}
    await create(bootstrap, *topics.values(), partitions=1)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        # one lane after the other, so that what comes last must overtake
        for name in ("batch", "default", "interactive"):
            await send(bootstrap, topics["lanes"], [(b"k", name.encode(), lane(name))] * 180, partitions=1)
        await send(bootstrap, topics["fair"], [(b"k", b"flood", tenant("loud"))] * 400, partitions=1)
        # what a cold broker delays by more than a bucket holds delays all behind it
        await read_count(bootstrap, [f"{prefix}.admitted.lanes"], 100)
        for name in BURSTS:
            await send(bootstrap, topics[name], [(b"k", b"%d" % i, []) for i in range(150)], partitions=1)
        await send(bootstrap, topics["fair"], [(b"k", b"one", tenant("quiet"))], partitions=1)

        fair = await read_count(bootstrap, [f"{prefix}.admitted.fair"], 401)
        lanes = await read_count(bootstrap, [f"{prefix}.admitted.lanes"], 300)
        queues = {name: await read_count(bootstrap, [f"{prefix}.admitted.{name}"], 150) for name in BURSTS}
        delayed = [f"{prefix}.delayed.{name}" for name in (*BURSTS, "fair")]
        parked = await read_count(bootstrap, delayed, 149 + 145 + 395)

        before = resident(running.process.pid)
        await send(bootstrap, topics["deep"], [(b"k", b"x" * 100, [])] * 30_000, partitions=1)
        await read_count(bootstrap, [f"{prefix}.delayed.deep"], 29_999)
        grown = resident(running.process.pid) - before
        assert running.stop() == 0, running.text()

    promised = {stamp(r).id: int(header(r, "gate-not-before")) for r in parked}

    late: dict[str, list[int]] = {}
    for name, burst in BURSTS.items():
        queue = queues[name]
        assert [r.value for r in queue] == [b"%d" % i for i in range(150)], "first in, first out"
        at = [stamp(r).at_ms for r in queue]
        assert at[-1] - at[0] <= (150 - burst) * 40 + 1_000, "all in the ideal time and a second"
        late[name] = [stamp(r).at_ms - promised[stamp(r).id] for r in queue[burst:]]
        assert min(late[name]) >= 0
        assert max(stamp(r).attempt for r in queue) <= 2
        assert_never_over(at, rate=Fraction(25), burst=burst)
    # with a bucket of one each stall of a busy machine delays all behind it: there only their sum is bounded, above
    assert max(late["steady"]) <= LATE_MS, late

    # while all three lanes wait, and after those that came before the others
    shares = Counter(r.value for r in lanes[50:250])
    expected = {b"interactive": 120, b"default": 60, b"batch": 20}
    assert all(abs(shares[name] - count) <= 4 for name, count in expected.items()), shares

    (quiet,) = [r for r in fair if r.value == b"one"]
    before = sum(stamp(quiet).created_ms < stamp(r).at_ms < stamp(quiet).at_ms for r in fair)
    assert before <= 2 * 2, "two fair turns of two tenants"
    assert sum(stamp(r).at_ms > stamp(quiet).at_ms for r in fair) > 200, "the flood still waits"

    assert grown < 40, f"{grown} MB for 30,000 parked requests"


async def test_a_limit_that_changes_under_a_backlog(bootstrap, prefix, tmp_path):
    topic, counts = f"{prefix}.requests.pay", (40, 20)
    await create(bootstrap, topic, partitions=1)
    limits = "services: {pay: {requests_per_second: %d, burst_size: 15, window_size: null}}\n"
    with gate(tmp_path, bootstrap, prefix, limits % 50, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        top = "".join(running.config.read_text().splitlines(keepends=True)[:3])
        await send(bootstrap, topic, [(b"k", b"%d" % i, []) for i in range(400)], partitions=1)
        await read_count(bootstrap, [f"{prefix}.admitted.pay"], counts[0])
        running.config.write_text(top + limits % 10)
        until(lambda: running.text().count("policy changed") == 1, explain=running.text)
        await asyncio.sleep(2)  # the lower limit is to be seen at work
        running.config.write_text(top + limits % 500)
        out = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 400)
    by_policy: dict[str, list[int]] = {}
    for record in out:
        by_policy.setdefault(stamp(record).policy, []).append(stamp(record).at_ms)
    fast, slow, faster = by_policy.values()
    assert_never_over(fast, rate=Fraction(50), burst=15)
    assert_never_over(slow, rate=Fraction(10), burst=15)
    assert_never_over(faster, rate=Fraction(500), burst=15)
    assert len(slow) >= counts[1] - 10
    assert faster[-1] - faster[0] <= 1.02 * len(faster) * 2 + 300, "drained at the new rate, not at the promised times"
    assert [r.value for r in out] == [b"%d" % i for i in range(400)]
