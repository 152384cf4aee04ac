"""What a process holds of limits, and what it tells of calls for which no owner answers."""

import math

import pytest

from gate.distributed.holders import ALLOWED, PENDING, Holders
from gate.mesh.terms import DEFAULT, Away
from gate.mesh.wire import Charged, Grant, Limits, Report, Share, decode, encode
from gate.shard.lease_reports import judge
from gate.shard.placement import shard_of
from gate.units import SECOND

SHARDS = 2
NAMES = {
    shard: next(name for name in map(str, range(99)) if shard_of(name, SHARDS) == shard) for shard in range(SHARDS)
}
HERE, GONE = NAMES[0], NAMES[1]
PATIENCE = 2 * SECOND


class Process:
    """Holders whose reports are answered by the owner of each shard that is there."""

    def __init__(self, away: Away) -> None:
        self.now = 1000 * SECOND
        self.holders = Holders(away, self.now)
        self.holders.settle(SHARDS, 1)
        self.there = {0, 1}
        self.alone: list[tuple[int, int]] = []
        self.wants: dict[str, list[int]] = {}
        self.passed_over: list[tuple[str, str]] = []  # reports that an owner does not hear

    def call(self, service: str) -> object:
        """Call, and wait as long as one has patience."""
        for _ in range(3):
            answer = self.holders.decide(self.now, service, "", 1)
            if answer is not PENDING:
                return answer
            if self.holders.is_hopeless(self.now, service, "", PATIENCE):
                break
            self.wait(1)
        return self.holders.gave_up(self.now, service, "", 1)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.now += SECOND // 4
            for shard, holder, data in list(self.holders.reports(self.now)):
                if isinstance(found := judge(data, 1, ()), tuple):
                    self.passed_over.append(found)
                elif shard in self.there:
                    self._answer(shard, holder, decode(Report, data))

    def _answer(self, shard: int, holder: str, report: Report) -> None:
        limits = Limits(10**12, (), 1000, granted=False)
        found = [Charged(name, "", (name,), shard, (1000,)) for name, _ in report.lookups]
        shares = [Share(entry.name, report.seq, limits, 10**12, 1000, (), 0) for entry in report.budgets]
        for entry in report.budgets:
            self.wants.setdefault(entry.name, []).append(entry.want)
        self.alone += [entry.alone for entry in report.budgets if entry.alone is not None]
        grant = Grant(holder, report.epoch, report.seq, DEFAULT.lease_ns, 0, tuple(shares), found=tuple(found))
        self.holders.receive(self.now, holder.encode(), encode(grant))


@pytest.mark.parametrize("away", list(Away))
def test_an_owner_that_is_away_is_not_waited_for_by_every_call_and_not_done_without_for_ever(away: Away) -> None:
    process = Process(away)
    for service in (HERE, GONE):
        process.call(service)
        process.wait(2)
        assert process.call(service) == ALLOWED
    assert process.holders.away_for(process.now) < SECOND
    process.there = {0}
    process.wait(12)
    assert process.call(HERE) == ALLOWED
    assert process.holders.away_for(process.now) > 10 * SECOND
    before = process.now
    answers = [process.call(GONE) for _ in range(20)]
    assert process.now - before <= 3 * SECOND  # the first waits
    if away is Away.CLOSED:
        assert not any(allowed for allowed, _ in answers)
        assert process.holders.let_go == 0
    else:
        assert answers == [ALLOWED] * 20
        assert process.holders.let_go == 20
    process.wait(60)
    assert process.call(HERE) == ALLOWED
    ended = [process.call(GONE) for _ in range(5)]
    assert not any(allowed for allowed, _ in ended)
    assert all(0 < wait < math.inf for _, wait in ended)
    process.there = {0, 1}
    process.wait(2)
    assert process.call(GONE) == ALLOWED
    process.wait(2)
    assert process.holders.away_for(process.now) < SECOND
    assert max(process.alone) == ((0, 25) if away is Away.CLOSED else (20, 5))


@pytest.mark.parametrize("away", list(Away))
def test_a_process_that_never_had_an_answer_tells_of_it_when_it_has_one(away: Away) -> None:
    process = Process(away)
    process.there = set()
    answers = [process.call(GONE) for _ in range(7)]
    assert answers == ([ALLOWED] * 7 if away is Away.OPEN else [(False, 1.0)] * 7)
    process.wait(61)
    assert process.call(GONE) == (False, 1.0)
    process.there = {0, 1}
    process.wait(3)
    assert process.call(GONE) == ALLOWED
    process.wait(2)
    assert process.holders.let_go == (7 if away is Away.OPEN else 0)
    assert max(process.alone) == ((7, 1) if away is Away.OPEN else (0, 8))


def test_a_part_decides_by_itself_only_while_nothing_else_is_to_be_looked_at() -> None:
    process = Process(Away.CLOSED)
    process.call(HERE)
    process.wait(2)
    route = process.holders.plain[HERE]
    assert route.holder is not None
    assert route.only.decides_until == route.holder.until > process.now
    waiter = object()
    route.holder.wait(process.now, route.names, 500, waiter)
    assert route.only.decides_until == 0
    route.holder.cancel(route.names, waiter)
    route.holder.poll(process.now)
    process.wait(2)
    assert route.only.decides_until > process.now
    process.there = set()
    process.wait(12)
    assert route.only.decides_until == 0
    process.holders.renew(process.now)
    assert not process.holders.plain


def test_several_calls_are_charged_as_one_or_not_at_all() -> None:
    process = Process(Away.CLOSED)
    for service in (HERE, GONE):
        process.call(service)
    process.wait(2)  # each has a thousand units by now
    holders, now = process.holders, process.now
    assert holders.charge_all(now, [(HERE, "", 500)]) is None
    place, wait = holders.charge_all(now, [(GONE, "", 600), (HERE, "", 300), (HERE, "", 300)]) or (-1, None)
    assert (place, wait) == (2, pytest.approx(0.1, rel=0.01))
    assert holders.charge_all(now, [(HERE, "", 1), (HERE, "", 1001)]) == (1, None)  # alone, it does not fit either
    assert holders.charge_all(now, [(HERE, "", 1), ("unheard-of", "", 1)]) == (1, None)
    assert holders.charge_all(now, [(GONE, "", 1000), (HERE, "", 400), (HERE, "", 100)]) is None
    assert not any(holders.decide(now, service, "", 1) is ALLOWED for service in (HERE, GONE))


@pytest.mark.parametrize("cost", [1001, 10**14, 2**62])
def test_a_cost_that_can_never_be_admitted_takes_nothing_from_anybody(cost: int) -> None:
    process = Process(Away.CLOSED)
    for service in (HERE, GONE):
        process.holders.decide(process.now, service, "", cost)  # before anything is known of it
        process.call(service)
    process.wait(2)
    for _ in range(40):
        assert process.holders.decide(process.now, HERE, "", cost) == (False, math.inf)
        process.wait(0.25)
        assert process.holders.decide(process.now, HERE, "", 1) == ALLOWED
    assert max(process.wants[HERE][2:]) <= 1000 * 10  # milli-units a second of single calls
    assert process.holders.away_for(process.now) < SECOND
    assert not process.passed_over


def test_what_nobody_answers_is_told_in_numbers_that_an_owner_hears() -> None:
    process = Process(Away.OPEN)
    process.there = set()
    for _ in range(8):
        process.holders.decide(process.now, HERE, "", 2**62)
        process.wait(0.5)
        process.holders.gave_up(process.now, HERE, "", 2**62)
    process.there = {0, 1}
    process.wait(3)
    assert process.call(HERE) == ALLOWED
    assert process.alone
    assert not process.passed_over
