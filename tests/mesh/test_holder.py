"""The holder's side: queue, what is never, and an owner that is away."""

from fractions import Fraction
from random import Random

import pytest

from gate.limits import NEVER, Spec, Window
from gate.mesh.holding import Holding
from gate.mesh.terms import Away
from gate.mesh.wire import NONE, Ask, Grant, Limits, Report, Share, WireError, decode, encode
from gate.units import MS, SECOND
from tests.mesh.table import NAMES, Table

BUCKET = Spec(Fraction(10), 10, ())


def test_a_call_is_decided_without_asking_once_there_is_a_part():
    table = Table(BUCKET, 1)
    refusal = table.holders[0].check(table.local, NAMES)
    assert refusal is not None
    assert refusal.asked
    table.share(0, seconds=2)
    assert table.spend(0) >= 7  # some is kept for who asks
    refusal = table.holders[0].check(table.local, NAMES)
    assert refusal is not None
    assert not refusal.asked
    assert 0 < refusal.wait <= SECOND // 5
    table.now += refusal.wait
    assert table.spend(0, 1) == 1


def test_never_is_said_of_the_whole_limit_only():
    table = Table(BUCKET, 4)
    table.share(0, 1, 2, 3)
    beyond_its_part = table.holders[0].check(table.local, NAMES, 9)
    assert beyond_its_part is not None
    assert beyond_its_part.wait < NEVER
    beyond_all = table.holders[0].check(table.local, NAMES, 11)
    assert beyond_all is not None
    assert beyond_all.wait == NEVER


def test_a_call_that_no_part_can_carry_goes_when_parts_are_recalled():
    table = Table(BUCKET, 3)
    table.share(0, 1, 2)
    for _ in range(60):
        table.holders[0].check(table.local, NAMES, 9)
        table.hear(table.report(0))
        table.give(table.step())
        if table.spend(0, 1, cost=9):
            break
        table.round(1, 2, units=20)
        table.spend(1)
        table.spend(2)
    else:
        pytest.fail("9 of a burst of 10 never went")
    assert not table.problems()


def test_who_waits_goes_in_order_and_counts_as_wanted():
    table = Table(BUCKET, 1)
    holder = table.holders[0]
    for ticket in range(30):
        holder.wait(table.local, NAMES, 1, ticket)
    table.round(0, times=5)
    assert holder._held["s"].want > 0
    assert holder.check(table.local, NAMES) is not None  # nobody overtakes
    holder.cancel(NAMES, 3)
    gone = []
    for _ in range(60):
        table.round(0)
        gone += holder.poll(table.local)[0]
    assert gone == [ticket for ticket in range(30) if ticket != 3]
    table.share(0)
    assert holder.check(table.local, NAMES) is None


def test_what_became_smaller_is_acknowledged_at_once():
    table = Table(BUCKET, 2)
    table.share(0)
    holder = table.holders[0]
    table.hear(table.report(0))
    table.give(table.step())
    assert not holder.due(table.local)
    table.ask_for(1)
    table.hear(table.report(1))
    table.wait(0.1)
    table.give(table.step())
    assert holder.due(table.local)


def test_a_limit_of_two_budgets_is_charged_to_both_or_to_none():
    table = Table(BUCKET, 1)
    table.limits["t"] = Spec(None, 1, (Window(3, SECOND),))
    holder = table.holders[0]
    for _ in range(20):
        for name in ("s", "t"):
            (holder._held.get(name) or holder._meet(name)).wanted += 100
        table.round(0)
    both = 0
    while holder.check(table.local, ("s", "t")) is None:
        both += 1
    assert both == 3
    assert table.spend(0) >= 6  # what was refused was not charged


@pytest.mark.parametrize("away", [Away.OPEN, Away.FLOOR, Away.CLOSED])
def test_without_an_owner_it_does_as_it_was_told_and_not_for_ever(away):
    table = Table(Spec(Fraction(20), 20, (Window(20, SECOND), Window(600, 60 * SECOND))), 1)
    holder = table.holders[0]
    holder.on_owner_away = away
    table.share(0, seconds=3)
    counts = []
    for _ in range(80):
        table.wait(1)
        counts.append(sum(table.spend(0, 100) for _ in range(2)))
    last_lease, ended = counts[:3], counts[65:]
    assert sum(last_lease) > 0
    assert not any(ended)
    beyond = counts[4:60]
    if away is Away.CLOSED:
        assert not any(beyond)
    elif away is Away.OPEN:
        assert all(count == 200 for count in beyond)
    else:
        assert 0 < sum(beyond[:4]) <= 80
        assert sum(beyond[8:12]) < sum(beyond[:4])
    assert holder.beyond >= sum(beyond)


def test_what_went_without_an_owner_is_told_once_whichever_answers_are_lost_and_whoever_takes_over():
    table = Table(BUCKET, 1)
    holder = table.holders[0]
    holder.on_owner_away = Away.OPEN
    table.share(0, seconds=2)
    told: list[tuple[int, int]] = []

    def hear(*, answer: bool) -> None:
        table.hear(table.report(0))
        grants = table.step()
        told.extend(table.owner.alone.values())
        table.owner.alone = {}
        if answer:
            table.give(grants)

    table.wait(5)
    assert table.spend(0, 30) == 30
    hear(answer=False)  # its lease is over at the owner, too
    hear(answer=False)
    holder.give_up(NAMES, 4, allowed=False)
    table.take_over()
    hear(answer=True)
    hear(answer=True)
    table.wait(30)  # forgotten
    table.step()
    hear(answer=True)
    assert [(let_go, refused) for let_go, refused in told if let_go or refused] == [(30, 0), (0, 4)]


def test_more_than_fits_into_one_report_is_told_in_several_at_once(monkeypatch):
    monkeypatch.setattr("gate.mesh.holder.MOST_TOLD", 3)
    table = Table(BUCKET, 1)
    names = [f"b{number}" for number in range(10)]
    table.limits |= dict.fromkeys(names, BUCKET)
    holder = table.holders[0]
    for name in names:
        holder.check(table.local, (name,))
    table.wait(1)
    reports = []
    while holder.due(table.local):
        report = holder.report(table.local)
        assert report is not None
        reports.append(report)
    assert [len(report.budgets) for report in reports] == [3, 3, 3, 1]
    assert {entry.name for report in reports for entry in report.budgets} == set(names)
    table.hear(*reports)
    table.give(table.step())
    table.wait(1)
    leaving = [holder.report(table.local, leaving=True)]
    while holder.goes_on:
        leaving.append(holder.report(table.local, leaving=True))
    assert [report.leaving for report in leaving if report is not None] == [False, False, False, True]
    table.hear(*[report for report in leaving if report is not None])
    assert not table.owner.leases


def test_whoever_leaves_gives_all_back():
    table = Table(BUCKET, 2)
    table.share(0)
    report = table.holders[0].report(table.local, leaving=True)
    assert report is not None
    table.hear(report)
    assert table.spend(0) == 0
    table.share(1, seconds=0.2)
    assert table.holders[1]._held["s"].part.spec.burst == 10
    table.hear(report)  # twice: no harm
    table.give([Grant("p0", 1, report.seq, 10 * SECOND, 0)])
    assert table.spend(0) == 0


def test_records_are_read_back_and_others_refused():
    report = Report("p0", 7, 3, (), (Ask(1, ("s", "t"), 5, 20 * MS),), leaving=True)
    assert decode(Report, encode(report)) == report
    for bad in (b"", b"\x02", b"\x01\xff", encode(report)[:-1], encode(report) + b"\0"):
        with pytest.raises(WireError):
            decode(Report, bad)
    with pytest.raises(WireError):
        decode(Grant, encode(report))


@pytest.mark.parametrize("seed", range(40))
def test_the_quick_way_tells_the_owner_what_the_other_one_does(seed: int) -> None:
    """Of two that are asked the same, one may never go the quick way."""
    chance, now = Random(seed), 10**12
    quick, slow = Holding("s"), Holding("s")
    limits = Limits(10**10, (), NONE, granted=True)
    granted = quickly = 0
    for number in range(1, 400):
        now += chance.choice((1, MS, 20 * MS, 120 * MS))
        if number == 1 or chance.random() < 0.1:
            granted += chance.randint(0, 20)
            starts = ((max(0, granted - 5), 0), (granted, 30 * MS)) if chance.random() < 0.3 else ()
            rate = chance.randint(1, 40) * 10**9
            share = Share("s", number, limits, rate, chance.randint(1, 30), (), granted, starts, 10)
            assert quick.apply(share, now) == slow.apply(share, now)
        cost = chance.choice((1, 1, 2, 5))
        quickly += now <= quick.quick_until
        slow.quick_until = -1
        assert quick.take(now, cost) == slow.take(now, cost)
        if chance.random() < 0.05:
            quick.measure(SECOND, SECOND, 3 * SECOND // 2)
            slow.measure(SECOND, SECOND, 3 * SECOND // 2)
        if chance.random() < 0.1:
            assert quick.report(now, number) == slow.report(now, number)
        if chance.random() < 0.02:
            quick.lapse()
            slow.lapse()
    assert quick.report(now, 400) == slow.report(now, 400)
    assert (quick.wanted, quick.want, quick.left(now)) == (slow.wanted, slow.want, slow.left(now))
    assert quickly > 50


@pytest.mark.parametrize("cost", [0, -1, True, 1.5, "1"])
def test_the_quick_way_refuses_a_cost_that_makes_no_sense(cost: object) -> None:
    holding = Holding("s")
    holding.apply(Share("s", 1, Limits(10**10, (), NONE, granted=True), 10**10, 30, (), 20, (), 10), 10**12)
    now = 10**12 + SECOND
    assert holding.take(now, 1)
    assert now <= holding.quick_until
    with pytest.raises((TypeError, ValueError), match="cost"):
        holding.take(now, cost)  # type: ignore[arg-type]
