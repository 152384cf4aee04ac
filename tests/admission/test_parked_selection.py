"""Commands on what is parked: some leaves, or goes into another lane; all else goes on as if that had never been."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.model import EXPEDITED, MS, SECOND, Reason, Run, Verdict
from gate.admission.parked_selection import Filter
from gate.admission.queues.spans import BEGINNING
from gate.limits import Spec
from gate.policy import ServicePolicy, Tenants
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
MOST = 1 << 40
COMMANDS = ("move", "expedite", "cancel")


def policy(**changes):
    lanes = {"hi": Fraction(6), "low": Fraction(1)}
    usual = {"spec": Spec(Fraction(10), 1, ()), "lanes": lanes, "default_lane": "low", "max_delay": None}
    return ServicePolicy("pay", **(usual | changes))


def everything(sim, fit=None, end=MOST, entries=MOST, requests=MOST):
    """Return all that fits, looked for step by step."""
    found, cursor = [], BEGINNING
    while cursor is not None:
        spans, cursor = sim.engine.select(fit or Filter(), cursor, end, entries, requests)
        found += spans
    return found


def numbers(sim, spans):
    return [n for s in spans for n in sim._driver._logs[s.partition][s.offset : s.end]]


def cancel(sim, spans):
    for pull in sim.engine.reject(sim.now, spans, Reason.CANCELLED):
        log = sim._driver._logs[pull.partition]
        sim.left(log[pull.offset : pull.offset + pull.count], pull, sim.now)


def test_what_is_cancelled_leaves_without_a_turn_and_others_come_earlier():
    sim = Simulation(policy(), now=START)
    sim.submit(Run(0, 1), Run(1, 20, "low", "acme"), Run(21, 20, "low", "beta"))
    cancel(sim, everything(sim, Filter(tenant="acme")))
    assert sim.engine.waiting == 20
    assert sim.engine.usage(sim.now).totals_by_verdict()[Verdict.DELAYED] == 40
    cancelled = [t for t in sim.engine.usage(sim.now).totals if t.reason is Reason.CANCELLED]
    assert [(t.lane, t.verdict, t.pulled, t.requests) for t in cancelled] == [("low", Verdict.REJECTED, True, 20)]
    sim.drain()
    assert set(sim.history.rejected_at[1:21]) == {START}
    assert list(sim.history.admitted_at[21:41]) == [START + i * 100 * MS for i in range(1, 21)]
    assert set(sim.history.admitted_at[1:21]) == {0}


def test_only_what_came_before_is_meant():
    sim = Simulation(policy(), now=START)
    sim.submit(Run(0, 11, "low", "acme"))
    end = sim.engine.arrivals
    sim.offer(10, lane="low", tenant="acme")
    assert numbers(sim, everything(sim, end=end)) == list(range(1, 11))
    assert numbers(sim, everything(sim)) == list(range(1, 21))


def test_what_is_known_of_requests_is_what_is_looked_for():
    sim = Simulation(policy(), now=START, partitions=2)
    due = START + 90 * SECOND
    sim.offer(1)
    sim.submit(Run(0, 4, "hi", "acme"), Run(4, 4, "low", "acme", 1, due), Run(8, 4, "low", "b", 1, due + 2 * MS))
    assert sorted(numbers(sim, everything(sim, Filter(lane="hi")))) == [1, 2, 3, 4]
    assert sorted(numbers(sim, everything(sim, Filter(tenant="acme", lane="low")))) == [5, 6, 7, 8]
    assert sorted(numbers(sim, everything(sim, Filter(deadline_before=due + MS)))) == [5, 6, 7, 8]
    assert sorted(numbers(sim, everything(sim, Filter(outside="low")))) == [1, 2, 3, 4]
    assert everything(sim, Filter(tenant="nobody")) == []


@pytest.mark.parametrize("restart", [False, True])
def test_what_moves_into_another_lane_waits_there_in_the_order_of_arrival(restart):
    sim = Simulation(policy(), now=START, restart=restart)
    sim.offer(1)
    sim.submit(Run(0, 5, "low", "acme"), Run(5, 5, "hi", "acme"), Run(10, 5, "low", "acme"))
    spans = everything(sim, Filter(tenant="acme", lane="low"))
    assert sim.engine.shift(sim.now, spans, "hi") == 10
    lanes = {lane.name: lane.backlog for lane in sim.engine.usage(sim.now).lanes}
    assert lanes == {"hi": 15, "low": 0}
    if restart:
        sim.reopen()
    sim.drain()
    assert list(sim.history.admitted_at[1:16]) == [START + i * 100 * MS for i in range(1, 16)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from(("hi", "low")), st.sampled_from("abc")), min_size=1, max_size=8
    ),
    st.lists(
        st.tuples(
            st.sampled_from(("move", "expedite", "cancel")), st.integers(0, 2), st.integers(1, 40), st.integers(1, 5)
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_each_request_has_one_end_whatever_is_taken_out_of_the_midst(runs, commands, restart):
    """Any parts of runs, in any order, from some partitions; between them releases, restarts and new requests."""
    sim = Simulation(policy(spec=Spec(Fraction(100), 20, ())), now=START, partitions=3, restart=restart)
    for count, lane, tenant in runs:
        sim.offer(count, lane=lane, tenant=tenant)
    cancelled = set()
    for command, skip, size, step in commands:
        spans = everything(sim, Filter(scheduled=sim.engine.scheduled_ends), requests=size)[skip::step]
        if command == "move":
            assert sim.engine.shift(sim.now, spans, "hi") == sum(span.count for span in spans)
        elif command == "expedite":
            spans = [span for span in spans if span.seq]  # what is scheduled has no turn
            assert sim.engine.expedite(sim.now, spans) == sum(span.count for span in spans)
        else:
            cancelled |= set(numbers(sim, spans))
            cancel(sim, spans)
        left = everything(sim, Filter(scheduled=sim.engine.scheduled_ends))
        waits = sorted(numbers(sim, left))
        assert len(waits) == sim.engine.waiting + sim.engine.scheduled == len(set(waits))
        assert not cancelled & set(waits)
        for partition in range(3):
            offsets = [span.offset for span in left if span.partition == partition]
            assert sim.engine.low_watermark(partition) == (min(offsets) if offsets else None)
        sim.run_until(sim.now + 50 * MS)
        sim.offer(3, lane="low", tenant="a")
        sim.submit(Run(0, 4, "low", "b", start=sim.now + 40 * MS), Run(4, 7, "hi", "c", start=sim.now + 5 * MS))
        sim.reopen() if restart else sim.save()
    sim.run_until(sim.now + SECOND)
    sim.drain()
    total = len(sim.history.submitted_at)
    assert {n for n in range(total) if sim.history.rejected_at[n]} == cancelled
    assert all(bool(sim.history.admitted_at[n]) != (n in cancelled) for n in range(total))


@pytest.mark.parametrize("restart", [False, True])
def test_what_came_late_is_found_in_whichever_order_it_lies(restart):
    """Scheduled requests come to wait when their time has come, in an order that is not that of their places."""
    sim = Simulation(policy(), now=START, restart=restart)
    sim.offer(1)
    for number in range(300):
        sim.submit(Run(0, 2, "low", "ab"[number % 2], start=START + (300 - number) * MS))
    sim.run_until(START + 301 * MS)
    assert sim.engine.waiting > 590
    assert [span.offset for span in everything(sim, requests=7)] == sorted(
        span.offset for span in everything(sim, requests=7)
    )
    waited = len(numbers(sim, everything(sim, Filter(tenant="a"), entries=5)))
    spans = [span for span in everything(sim, Filter(tenant="a"), requests=1) if span.offset % 2]
    assert sim.engine.shift(sim.now, spans[::2], "hi") == len(spans[::2])
    cancel(sim, spans[1::2])
    sim.save()
    sim.reopen()
    assert len(numbers(sim, everything(sim, Filter(tenant="a")))) == waited - len(spans[1::2])
    assert sim.engine.low_watermark(0) == min(span.offset for span in everything(sim))
    sim.drain()
    ends = len([at for at in sim.history.admitted_at if at]), len([at for at in sim.history.rejected_at if at])
    assert ends == (601 - len(spans[1::2]), len(spans[1::2]))


def test_segments_lie_one_behind_the_other_whatever_is_taken_out():
    """An earlier version takes the first record of a partition for the oldest."""
    sim = Simulation(policy(), now=START)
    for _ in range(300):
        sim.submit(Run(0, 2, "low", "a"), Run(2, 3, "low", "b"))
    spans = [span for span in everything(sim, requests=1) if span.offset % 3 == 1]
    cancel(sim, spans)
    sim.save()
    bases = sorted(int(key.rpartition("/")[2]) for key in sim.state if key.startswith("parked/pay/0/"))
    sim.reopen()
    offsets = [span.offset for span in everything(sim, requests=1)]
    assert offsets == sorted(set(offsets))
    assert not {span.offset for span in spans} & set(offsets)
    assert len(bases) < 30


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_scheduled_is_reached_before_its_time(restart):
    """It is found where it lies, also when its time comes between the look at it and the act."""
    sim = Simulation(policy(), now=START, partitions=2, restart=restart)
    sim.offer(1)
    for number in range(300):
        sim.submit(Run(0, 3, "low", "ab"[number % 2], start=START + (1 + number % 7) * SECOND))
    ends = sim.engine.scheduled_ends
    sim.submit(Run(0, 5, "low", "a", start=START + 100 * SECOND))  # later than the command: not meant
    meant = Filter(tenant="a", scheduled=ends)
    assert everything(sim, Filter(tenant="a"), end=0) == []
    assert len(numbers(sim, everything(sim, meant, end=0, entries=7, requests=40))) == 450
    assert len(numbers(sim, everything(sim, Filter(lane="hi", scheduled=ends), end=0))) == 0
    parts = [span for span in everything(sim, meant, end=0, requests=1) if span.offset % 3 == 1]
    middle = set(numbers(sim, parts))
    cancel(sim, parts)
    sim.save()
    sim.reopen()
    assert sim.engine.scheduled == 905 - len(middle)
    assert not middle & set(numbers(sim, everything(sim, meant, end=0)))
    moved = everything(sim, Filter(tenant="b", scheduled=ends), end=0)
    assert sim.engine.shift(sim.now, moved, "hi") == 450
    sim.run_until(START + 3 * SECOND)
    rest = set(numbers(sim, everything(sim, meant, end=0)))
    assert rest
    cancel(sim, everything(sim, meant, end=0, requests=9))
    sim.drain()
    rejected = {n for n in range(906) if sim.history.rejected_at[n]}
    assert rejected == middle | rest
    assert {n for n in range(906) if sim.history.admitted_at[n]} == set(range(906)) - rejected
    lanes = {t.lane: t.requests for t in sim.engine.usage(sim.now).totals if t.pulled and t.verdict is Verdict.ADMITTED}
    assert lanes["hi"] == 450


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_expedited_goes_next_and_is_charged_as_always(restart):
    """Whichever lane it is from, and whoever else comes; the limits admit as often as they would have."""
    sim = Simulation(policy(), now=START, restart=restart)
    sim.submit(Run(0, 11, "hi", "a"), Run(11, 10, "low", "b"), Run(21, 10, "low", "c"))
    expedited = everything(sim, Filter(tenant="c"))
    assert sim.engine.expedite(sim.now, expedited) == 10
    assert everything(sim, Filter(tenant="c", outside=EXPEDITED)) == []
    sim.submit(Run(0, 5, "hi", "d"))
    if restart:
        sim.reopen()
    told = dict(zip(range(31, 36), sim.history.not_before[31:36], strict=True))
    sim.drain()
    assert list(sim.history.admitted_at[21:31]) == [START + i * 100 * MS for i in range(1, 11)]
    assert sorted(sim.history.admitted_at[:36]) == [START + i * 100 * MS for i in range(36)]
    assert {n: sim.history.admitted_at[n] for n in told} == told  # who comes later is told of those in front
    lanes = {t.lane: t.requests for t in sim.engine.usage(sim.now).totals if t.pulled}
    assert lanes[EXPEDITED] == 10


def test_a_producer_can_t_expedite_what_it_sends():
    sim = Simulation(policy(), now=START)
    sim.submit(Run(0, 1), Run(1, 3, "hi"))
    sim.engine.expedite(sim.now, everything(sim))
    sim.submit(Run(0, 3, EXPEDITED))
    lanes = {lane.name: lane.backlog for lane in sim.engine.usage(sim.now).lanes}
    assert lanes == {"hi": 0, "low": 3, EXPEDITED: 3}
    assert sim.engine.usage(sim.now).unknown_lanes == 3


def test_what_is_expedited_stays_first_under_another_policy():
    sim = Simulation(policy(), now=START)
    sim.submit(Run(0, 1), Run(1, 20, "hi", "a"), Run(21, 5, "low", "b"))
    sim.engine.expedite(sim.now, everything(sim, Filter(tenant="b")))
    sim.set_policy(policy(lanes={"low": Fraction(1)}))
    sim.offer(5)
    sim.drain()
    assert list(sim.history.admitted_at[21:26]) == [START + i * 100 * MS for i in range(1, 6)]


def test_who_is_expedited_waits_for_its_own_limit_and_nobody_else_does():
    tenants = Tenants.of({"default": {"requests_per_second": Fraction(1), "burst_size": 1}})
    sim = Simulation(policy(tenants=tenants), now=START)
    sim.submit(Run(0, 3, "low", "a"), Run(3, 1, "low", "b"), Run(4, 3, "low", "b"))
    sim.engine.expedite(sim.now, everything(sim, Filter(tenant="b")))
    sim.offer(2, tenant="c")
    sim.drain()
    for first, count in ((0, 3), (3, 4), (7, 2)):
        times = sorted(sim.history.admitted_at[first : first + count])
        assert all(later - earlier >= SECOND for earlier, later in pairwise(times)), times
    assert sim.history.admitted_at[7] < START + SECOND
