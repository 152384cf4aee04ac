"""Commands on what is parked: some leaves, or goes into another lane; all else goes on as if that had never been."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.commands import Filter
from gate.admission.model import MS, SECOND, Reason, Run, Verdict
from gate.admission.queues.selectable import BEGINNING
from gate.limits import Spec
from gate.policy import ServicePolicy
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
MOST = 1 << 40


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
    st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(1, 40), st.integers(1, 5)), max_size=4),
    st.booleans(),
)
def test_each_request_has_one_end_whatever_is_taken_out_of_the_midst(runs, commands, restart):
    """Any parts of runs, in any order, from some partitions; between them releases, restarts and new requests."""
    sim = Simulation(policy(spec=Spec(Fraction(100), 20, ())), now=START, partitions=3, restart=restart)
    for count, lane, tenant in runs:
        sim.offer(count, lane=lane, tenant=tenant)
    cancelled = set()
    for moves, skip, size, step in commands:
        spans = everything(sim, requests=size)[skip::step]
        if moves:
            assert sim.engine.shift(sim.now, spans, "hi") == sum(span.count for span in spans)
        else:
            cancelled |= set(numbers(sim, spans))
            cancel(sim, spans)
        waits = sorted(numbers(sim, everything(sim)))
        assert len(waits) == sim.engine.waiting == len(set(waits))
        assert not cancelled & set(waits)
        for partition in range(3):
            offsets = [span.offset for span in everything(sim) if span.partition == partition]
            assert sim.engine.state.places.low_watermark(partition) == (min(offsets) if offsets else None)
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
