"""The judges of a chaos run find what is wrong: each is shown a history that is right, and the same with one fault."""

import asyncio
from collections import Counter
from fractions import Fraction

import msgspec
import pytest

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import Run, Verdict
from gate.kafka.local.config import free_port
from gate.limits import Spec, Window
from gate.policy import parse_policy
from gate.shard.changelog_records import META_KEY, Meta
from gate.shard.failpoints import POINTS
from tests.chaos import faults, judge, replay
from tests.chaos.faults import End
from tests.chaos.proxy import Api, Delay, Drop, Proxy

MS = 1_000_000
SPEC = Spec(Fraction(100), 50, (Window(1000, 10 * 1000 * MS),))
START = 1_764_000_000_000  # ms


def history(moments: dict[int, int]) -> judge.History:
    """Return the history of a service that always has 10,000 requests parked and admits so many at each moment."""
    found = judge.History()
    for _ in range(10_000):
        found.add("delayed", START, 1, 1)
    for at, count in moments.items():
        for _ in range(count):
            found.add("admitted", START + at, 2, 1)
    return found


def test_a_service_that_takes_what_its_limits_give_has_wasted_nothing():
    steady = {0: 50} | dict.fromkeys(range(10, 2000, 10), 1)
    found = judge.use(history(steady), SPEC, [])
    assert (found.admitted, found.allowed, found.idle_ms) == (199, 199, ())


def test_a_pause_that_overflows_the_bucket_is_waste_unless_a_fault_explains_it():
    pause = {0: 50} | dict.fromkeys(range(10, 500, 10), 1) | {2000: 50} | dict.fromkeys(range(2010, 3000, 10), 1)
    blamed = judge.use(history(pause), SPEC, [])
    assert blamed.ratio < 0.8
    assert blamed.idle_ms == ((START + 490, START + 2000),)
    excused = judge.use(history(pause), SPEC, [(START + 400, START + 600)])
    assert excused.ratio == 1
    assert (excused.outage_ms, excused.idle_ms) == (1510, ())


def test_one_admission_less_than_there_was_room_for_is_counted():
    lazy = {0: 50} | dict.fromkeys(range(10, 1990, 10), 1) | {2005: 1}  # two tokens have come by then
    found = judge.use(history(lazy), SPEC, [])
    assert found.allowed - found.admitted == 1


def test_a_silence_is_measured_from_the_fault_to_the_next_decision():
    decided = {0: [*range(0, 1000, 20), *range(3300, 5000, 20)], 1: list(range(0, 5000, 20))}
    found = judge.silences([(990, "kill", frozenset({0, 1}))], decided, [990], 1000)
    assert found == [judge.Silence("kill", 0, 2310), judge.Silence("kill", 1, 10)]
    assert judge.silences([(990, "kill", frozenset({0}))], decided, [990, 2000], 1000) == []  # another one in it
    assert judge.silences([(2000, "kill", frozenset({0}))], decided, [2000], 1000) == []  # it was silent already
    leave = judge.silences([(900, "leave", frozenset({0}))], decided, [900], 1000)
    assert leave == [judge.Silence("leave", 0, 2320)]


# -- the changelog -----------------------------------------------------------------------------------------------------


def changelog() -> tuple[list[tuple[str, bytes | None, int]], replay.Replay]:
    """Return what an engine writes in two batches of 30 requests (20 fit), and the replay of its topics."""
    policy = parse_policy("services: {s: {requests_per_second: 1, burst_size: 20}}").service("s")
    assert policy is not None
    engine = Engine("s", policy, Budgets(START * MS, {}, {}), START * MS, "abcdef")
    log: list[tuple[str, bytes | None, int]] = []
    topics = replay.Replay(policy.spec)
    offset = 0
    for batch in range(2):
        at = START + 1000 * batch
        step = engine.step(at * MS, [Run(0, 30)], 100)
        parked = sum(d.count for d in step.decisions if d.verdict is Verdict.DELAYED)
        admitted = sum(d.count for d in step.decisions if d.verdict is Verdict.ADMITTED)
        engine.parked([(0, offset + i) for i in range(parked)])
        for i in range(parked):
            topics.parked(at, (0, offset + i))
        for pull in step.pulls:
            admitted += pull.count
            for i in range(pull.count):
                topics.left(at, (0, pull.offset + i))
        topics.admitted(at, admitted)
        offset += parked
        log += [(key, value, at + 5) for key, value in engine.drain_changes().items()]
        log.append((META_KEY, msgspec.json.encode(Meta(1, 1, at * MS)), at + 5))
    topics.seal()
    return log, topics


def test_a_changelog_that_says_what_the_topics_imply():
    log, topics = changelog()
    assert list(replay.problems(0, log, [START + 500], {"s": topics})) == []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda topics: topics._moves.remove(next(m for m in topics._moves if not m[1])), "parked in the state"),
        (lambda topics: topics._moves.remove(next(m for m in topics._moves if m[1])), "parked in the state"),
        (lambda topics: topics._charges.append((START, 1)), "bucket"),
    ],
)
def test_a_changelog_that_does_not(spoil, problem):
    log, topics = changelog()
    spoil(topics)
    found = list(replay.problems(0, log, [START + 500], {"s": topics}))
    assert found
    assert all(problem in text or "window" in text for text in found)


def test_a_torn_batch_in_the_changelog_is_found():
    log, topics = changelog()
    first = next(replay.problems(0, log[:-1], [], {"s": topics}))
    assert "behind the last batch" in first


# -- the plan of faults ------------------------------------------------------------------------------------------------


def test_a_plan_has_every_point_and_is_the_same_for_the_same_seed():
    plan = faults.draw(3, 200, 3, 700, 2.0)
    assert plan == faults.draw(3, 200, 3, 700, 2.0)
    assert plan != faults.draw(4, 200, 3, 700, 2.0)
    assert plan.kills == 200
    points = Counter(fate.point for fate in plan.fates if fate.end is End.POINT)
    assert points == dict.fromkeys(POINTS, 10)
    assert Counter(fate.end for fate in plan.fates)[End.PAUSE] == 20
    assert len(plan.broker_kills) == 20
    assert all(0 < at < 700 for at in plan.broker_kills)


# -- the proxy ---------------------------------------------------------------------------------------------------------


def frame(api: int, body: bytes) -> bytes:
    content = api.to_bytes(2, "big") + bytes(2) + bytes(4) + (4).to_bytes(2, "big") + b"test" + body
    return len(content).to_bytes(4, "big") + content


async def test_a_late_request_arrives_although_its_sender_has_hung_up():
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while size := await reader.read(4):
            arrived.put_nowait((await reader.readexactly(int.from_bytes(size, "big")))[-3:])
        writer.close()

    port, outside = free_port(), free_port()
    release = 0.2
    fates = {Api.END_TXN: Delay(release), Api.PRODUCE: Drop(), Api.HEARTBEAT: Drop(after=True)}
    proxy = Proxy(outside, port, lambda request: fates.get(Api(request.api)))
    async with await asyncio.start_server(serve, "127.0.0.1", port):
        await proxy.start()
        _, late = await asyncio.open_connection("127.0.0.1", outside)
        late.write(frame(Api.END_TXN, b"end"))
        await late.drain()
        late.close()
        reader, lost = await asyncio.open_connection("127.0.0.1", outside)
        lost.write(frame(Api.PRODUCE, b"out"))
        assert await reader.read() == b""  # cut
        reader, unanswered = await asyncio.open_connection("127.0.0.1", outside)
        unanswered.write(frame(Api.HEARTBEAT, b"hrt"))
        assert await reader.read() == b""
        assert sorted([await arrived.get(), await arrived.get()]) == [b"end", b"hrt"]
        assert arrived.empty()
        await proxy.stop()
        for writer in (late, lost, unanswered):
            writer.close()
    assert proxy.struck == {("delay", Api.END_TXN): 1, ("drop", Api.PRODUCE): 1, ("drop", Api.HEARTBEAT): 1}
