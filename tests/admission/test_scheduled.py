"""Requests that are not to go before a time: they wait without a turn, and then queue as if they came then."""

import random
import tracemalloc
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.model import MS, SECOND, Reason, Run, Verdict
from gate.admission.queues.scheduled_places import Scheduled
from gate.admission.queues.segment import NO_DEADLINE
from gate.admission.state import ScheduledRecord, decode
from gate.limits import Spec
from gate.policy import Overflow, ServicePolicy
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
YEAR = 365 * 86_400 * SECOND


@pytest.fixture
def simulate(policy, spec):
    def make(limits=None, *, restart=False, partitions=1, **said):
        return Simulation(policy(limits or spec(1, 1), **said), now=START, partitions=partitions, restart=restart)

    return make


def at(seconds, count=1, first=0, **like):
    return Run(first, count, start=START + seconds * SECOND, **like)


def test_it_goes_at_its_time_and_its_stamp_says_so(simulate):
    sim = simulate()
    (decision,) = sim.submit(at(3 * 86_400)).decisions
    assert (decision.verdict, decision.reason, decision.limit) == (Verdict.DELAYED, Reason.SCHEDULED, None)
    assert decision.not_before == (START + 3 * 86_400 * SECOND,)
    assert sim.drain().history.admitted_at[0] == START + 3 * 86_400 * SECOND


def test_a_time_that_is_past_is_none(simulate):
    assert simulate().submit(at(-5)).decisions[0].verdict is Verdict.ADMITTED
    assert simulate().submit(at(0)).decisions[0].verdict is Verdict.ADMITTED


def test_it_takes_no_turn_before(simulate):
    sim = simulate()
    sim.submit(at(100, 50))
    assert sim.engine.waiting == 0
    assert sim.engine.scheduled == 50
    for second in range(10):
        sim.run_until(START + second * SECOND)
        assert sim.offer(1).decisions[0].verdict is Verdict.ADMITTED
    usage = sim.engine.usage(sim.now)
    assert (usage.backlog, usage.scheduled, usage.next_start) == (0, 50, START + 100 * SECOND)
    assert usage.last_refusal is None


def test_it_queues_as_if_it_had_come_then(simulate):
    """Behind what waits already, in front of what comes later."""
    sim = simulate()
    sim.submit(at(5))
    sim.run_until(START + 3 * SECOND)
    sim.offer(5)  # 1 .. 5: at 3 .. 7 s
    sim.run_until(START + 6 * SECOND)
    sim.offer(1)  # 6
    order = [number for _, first, count in sim.drain().history.admissions for number in range(first, first + count)]
    assert order == [1, 2, 3, 4, 5, 0, 6]
    assert sim.history.admitted_at[0] == START + 8 * SECOND


def test_those_of_one_time_go_one_after_the_other(simulate, never_over, spec):
    sim = simulate(spec(2, 3))
    sim.submit(at(10, 20))
    sim.drain()
    never_over(spec(2, 3), [(when, count) for when, _, count in sim.history.admissions])
    assert [(when - START) / SECOND for when in sim.history.admitted_at] == [10.0] * 3 + [
        10 + n / 2 for n in range(1, 18)
    ]
    assert all(decisions == 2 for decisions in sim.history.decisions)  # nothing is told twice to wait


def test_it_counts_in_its_lane_and_for_its_tenant_as_they_are_then(simulate, policy, spec):
    sim = simulate(
        spec(100, 100),
        weights={"default": 1, "gone": 1},
        tenants={"acme": {"requests_per_second": Fraction(50), "burst_size": 50}},
    )
    sim.submit(at(10, 3, lane="gone", tenant="acme"))
    slow = {"acme": {"requests_per_second": Fraction(1), "burst_size": 1}}
    sim.set_policy(policy(spec(100, 100), tenants=slow))
    sim.drain()
    assert [(when - START) / SECOND for when in sim.history.admitted_at] == [10, 11, 12]


def test_without_room_for_it_then_it_is_refused_where_requests_are(simulate):
    sim = simulate(overflow=Overflow.REJECT)
    sim.submit(at(10, 3))
    sim.run_until(START + 20 * SECOND)
    assert sim.history.admitted_at[0] == START + 10 * SECOND
    assert sim.history.refusals == {1: Reason.RATE, 2: Reason.RATE}
    assert sim.history.rejected_at[1] == START + 10 * SECOND
    assert sim.engine.waiting == sim.engine.scheduled == 0


def test_what_is_refused_then_says_when_it_would_have_gone(simulate):
    sim = simulate(overflow=Overflow.REJECT)
    sim.submit(at(10, 2))
    sim.now = START + 10 * SECOND
    _, refused = sim.submit().pulls
    assert refused.not_before == (START + 11 * SECOND,)


def test_what_is_held_back_by_others_waits_where_it_lies(simulate):
    sim = simulate(overflow=Overflow.HOLD)
    (decision,) = sim.submit(at(10, 3)).decisions
    assert decision.verdict is Verdict.DELAYED
    sim.drain()
    assert [(when - START) / SECOND for when in sim.history.admitted_at] == [10, 11, 12]


def test_behind_a_held_request_it_is_held_too(simulate):
    sim = simulate(overflow=Overflow.HOLD)
    step = sim.submit(Run(0, 2), at(10, 1, first=2), Run(3, 1))
    assert [(d.first, d.verdict) for d in step.decisions if d.verdict is not Verdict.HELD] == [(0, Verdict.ADMITTED)]
    assert sum(d.count for d in step.decisions) == 4
    assert sim.engine.scheduled == 0
    assert sim.engine.holding.total == 3


def test_in_front_of_a_held_request_it_is_scheduled(simulate):
    sim = simulate(overflow=Overflow.HOLD)
    step = sim.submit(Run(0, 1), at(10, 1, first=1), Run(2, 1))
    assert [d.verdict for d in step.decisions] == [Verdict.ADMITTED, Verdict.DELAYED, Verdict.HELD]


def test_the_longest_delay_counts_from_its_time(simulate):
    sim = simulate(max_delay=2 * SECOND)
    sim.submit(at(100, 5))
    sim.run_until(START + 200 * SECOND)
    assert [(when - START) / SECOND for when in sim.history.admitted_at[:3]] == [100, 101, 102]
    assert sim.history.refusals == {3: Reason.MAX_DELAY, 4: Reason.MAX_DELAY}


def test_a_deadline_before_its_time_refuses_it_at_once(simulate):
    sim = simulate()
    (decision,) = sim.submit(at(100, deadline=START + 99 * SECOND)).decisions
    assert (decision.verdict, decision.reason) == (Verdict.REJECTED, Reason.DEADLINE)
    sim.submit(at(100, 3, deadline=START + 101 * SECOND))
    sim.run_until(START + 200 * SECOND)
    assert sim.history.refusals == {0: Reason.DEADLINE, 3: Reason.DEADLINE}


def test_a_deadline_that_passed_while_nothing_ran(simulate):
    sim = simulate()
    sim.submit(at(100, deadline=START + 101 * SECOND))
    sim.now = START + 500 * SECOND
    sim.reopen()
    sim.submit()
    assert sim.history.refusals == {0: Reason.DEADLINE}


def test_what_can_never_be_admitted_is_not_kept_for_years(simulate, policy, spec):
    sim = simulate(spec(1, 5))
    assert sim.submit(at(100, cost=6)).decisions[0].reason is Reason.NEVER
    sim.submit(at(100, cost=4))
    sim.set_policy(policy(spec(1, 3)))
    sim.run_until(START + 200 * SECOND)
    assert sim.history.refusals == {0: Reason.NEVER, 1: Reason.NEVER}


def test_a_pause_holds_it_and_is_told(simulate):
    sim = simulate()
    sim.engine.pause(sim.now, START + 50 * SECOND)
    (decision,) = sim.submit(at(20), at(60, first=1)).decisions
    assert decision.not_before == (START + 50 * SECOND, START + 60 * SECOND)
    sim.drain()
    assert [(when - START) / SECOND for when in sim.history.admitted_at] == [50, 60]


def test_a_shadow_lets_it_go_at_its_time(simulate):
    sim = simulate(shadow=True)
    sim.submit(at(20, 3))
    sim.drain()
    assert [(when - START) / SECOND for when in sim.history.admitted_at] == [20, 20, 20]


def test_with_what_waits_gone_it_goes_ahead(simulate):
    sim = simulate()
    sim.submit(at(5, 3), at(50, 3, first=3))
    assert sim.engine.low_watermark(0) == 0
    sim.run_until(START + 5 * SECOND)
    assert sim.engine.low_watermark(0) == 1
    assert sim.engine.forget(sim.now, 0, 4) == 3  # two that came to wait, one that is scheduled
    assert sim.engine.low_watermark(0) == 4
    assert sim.drain().history.admitted_at[4] == START + 50 * SECOND
    assert sim.engine.low_watermark(0) is None


def test_crowds_come_in_slices_and_in_order(simulate, spec):
    sim = simulate(spec(10**6, 10**6), partitions=2)
    runs, first = [], 0
    for index in range(300):
        runs.append(at(10 + index * 7919 % 5, 10, first=first))
        first += 10
    sim.submit(*runs)
    sim.now = START + 20 * SECOND
    while sim.engine.scheduled:
        step = sim.submit(room=100)
        assert sum(pull.count for pull in step.pulls) == 50
        assert sim.engine.wake_at() == sim.now or not sim.engine.scheduled


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_never_early_never_over_once_and_no_later_than_its_turn(never_over, seed):
    """Beside ordinary traffic, with restarts: as an oracle that lets each come at its own time says."""
    rng = random.Random(seed)
    limits = Spec(Fraction(rng.choice([1, 7, 50])), rng.choice([1, 5, 20]), ())
    policy = ServicePolicy("svc", limits, lanes={"default": Fraction(1)}, default_lane="default")
    sim = Simulation(policy, now=START, partitions=rng.choice([1, 3]), restart=rng.random() < 0.5)
    came: list[int] = []
    for _ in range(rng.randrange(1, 8)):
        runs, first = [], 0
        for _ in range(rng.randrange(1, 6)):
            count = rng.choice([1, 3, 20])
            start = sim.now + rng.choice([-5, 0, 1, 300, 4_000, 90_000]) * MS if rng.random() < 0.6 else None
            runs.append(Run(first, count, start=start))
            came += [max(sim.now, start or 0)] * count
            first += count
        sim.submit(*runs)
        if rng.random() < 0.8:
            sim.run_until(sim.now + rng.choice([1, 10, 500, 20_000]) * MS)
    sim.drain()
    admitted = list(sim.history.admitted_at)
    assert all(when >= time for when, time in zip(admitted, came, strict=True))
    never_over(limits, [(when, 1) for when in admitted])
    assert max(sim.history.decisions) <= 2
    # one queue, first come first served: the bucket alone says when each goes
    tokens, last, expected = Fraction(limits.burst), START, []
    for time in sorted(came):
        now = max(time, last)
        tokens = min(Fraction(limits.burst), tokens + limits.rate * (now - last) / SECOND)
        if tokens < 1:
            wait = -(-(1 - tokens) * SECOND / limits.rate // MS) * MS
            now, tokens = now + int(wait), min(Fraction(limits.burst), tokens + limits.rate * int(wait) / SECOND)
        tokens, last = tokens - 1, now
        expected.append(now)
    assert sorted(admitted) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_places_are_kept_as_a_plain_list_keeps_them(seed):
    rng = random.Random(seed)
    kept, model, state = Scheduled("svc"), [], {}
    ends = [0, 0]
    now = 0
    for _ in range(rng.randrange(1, 60)):
        dice = rng.random()
        if dice < 0.6:
            partition, count = rng.randrange(2), rng.choice([1, 1, 2, 300])
            ends[partition] += rng.randrange(3)
            owner = rng.choice(["a", "b"]), rng.choice(["t", "u"])
            start, cost = now + rng.randrange(1, 100), rng.choice([1, 1, 7, 10**6])
            deadline = rng.choice([NO_DEADLINE, start + 5])
            kept.add(owner, partition, ends[partition], count, cost, deadline, start)
            model += [(start, partition, ends[partition] + n, owner, cost, deadline) for n in range(count)]
            ends[partition] += count
        elif dice < 0.8:
            now += rng.randrange(60)
            most = rng.choice([1, 5, 10_000])
            taken = [
                (due.start, due.partition, due.offset + n, due.owner, due.cost, due.deadline)
                for due in kept.take(now, most)
                for n in range(due.requests)
            ]
            ready = sorted(start for start, *_ in model if start <= now)[:most]
            assert [start for start, *_ in taken] == ready
            assert len(set(taken)) == len(taken)
            assert set(taken) <= set(model)
            model = [entry for entry in model if entry not in set(taken)]
        elif dice < 0.85:
            partition = rng.randrange(2)
            end = rng.randrange(ends[partition] + 1)
            gone = [entry for entry in model if entry[1] == partition and entry[2] < end]
            assert kept.drop_below(partition, end) == len(gone)
            model = [entry for entry in model if entry not in set(gone)]
        else:
            for key, value in kept.drain_changes().items():
                if value is None:
                    del state[key]
                else:
                    state[key] = value
            kept = restored(state)
        assert kept.requests == len(model)
        assert kept.next_start() == min((start for start, *_ in model), default=None)
        for partition in range(2):
            assert kept.low_watermark(partition) == min((o for _, p, o, *_ in model if p == partition), default=None)


def restored(state):
    kept = Scheduled("svc")
    names = sorted((int(key.split("/")[3]), int(key.split("/")[2]), key) for key in state)
    for _ in kept.restore((p, decode(key, state[key], ScheduledRecord)) for _, p, key in names):
        pass
    return kept


def test_a_million_take_some_bytes_each():
    rng = random.Random(1)
    kept = Scheduled("svc")
    tracemalloc.start()
    for number in range(50_000):
        kept.add(("default", f"t{number % 50}"), number % 8, number, 1, 1, NO_DEADLINE, rng.randrange(2**40))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / 50_000 < 40


def test_a_segment_that_was_put_back_to_a_time_it_had_is_named_once():
    scheduled = Scheduled("pay")
    for offset, start in enumerate((1, 0)):
        scheduled.add(("default", ""), 0, offset, 1, 1, NO_DEADLINE, start)
    assert [due.offset for due in scheduled.take(0, 9)] == [1]
    assert list(scheduled.upcoming(0, 9, 9)) == [(0, 0)]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=300), st.randoms(use_true_random=False))
def test_those_that_are_due_soon_are_known_before(entries, choice):
    """Whatever has left, each is named once where its time lies between the two."""
    scheduled, offsets = Scheduled("pay"), [0, 0]
    left = {}
    for start, count in entries:
        partition = choice.randrange(2)
        scheduled.add(("default", ""), partition, offsets[partition], count, 1, NO_DEADLINE, start)
        left |= {(partition, offsets[partition] + number): start for number in range(count)}
        offsets[partition] += count + choice.randrange(2)
    for due in scheduled.take(choice.randrange(20), choice.randrange(200)):
        for offset in range(due.offset, due.offset + due.requests):
            del left[due.partition, offset]
    after = choice.randrange(-1, 40)
    until = choice.randrange(after, 41)
    wanted = sorted(place for place, start in left.items() if after < start <= until)
    assert sorted(scheduled.upcoming(after, until, 1_000)) == wanted
    some = list(scheduled.upcoming(after, until, 5))
    assert len(some) == min(5, len(wanted))
    assert set(some) <= set(wanted)
    assert scheduled.requests == len(left)
