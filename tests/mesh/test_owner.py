"""The owner's side: division, the queue as one more holder, policy, pause, and what is kept."""

from fractions import Fraction

import pytest

from gate.limits import Per, Quota, Spec, StateError, Window
from gate.limits.part import UNIT
from gate.mesh.ledger import Account, Ledger
from gate.mesh.owner import Owner
from gate.units import SECOND
from tests.mesh.table import Table

BUCKET = Spec(Fraction(10), 10, ())
BOTH = Spec(Fraction(10), 10, (Window(10, SECOND), Window(100, 20 * SECOND)))


def test_queue_and_calls_share_one_budget():
    table = Table(BOTH, 2)
    taken = called = 0
    for _ in range(200):
        table.owner.want(table.now, "s", 5)
        taken += table.queue()
        table.round(0, 1, units=3)
        called += table.spend(0) + table.spend(1)
    assert not table.problems()
    assert taken > 0
    assert called > 0
    assert taken + called >= 0.9 * 5 * 20


def test_a_raised_limit_is_given_and_a_lowered_one_taken_back():
    table = Table(BUCKET, 1)
    table.share(0)
    table.limits["s"] = Spec(Fraction(100), 50, ())
    table.owner.reload(table.now)
    table.share(0, seconds=0.3)
    part = table.holders[0]._held["s"].part
    assert part.spec.burst == 50
    table.limits["s"] = Spec(Fraction(1), 2, ())
    table.owner.reload(table.now)
    table.share(0, seconds=0.3)
    assert part.spec.burst == 2


def test_what_may_be_lost_is_told_again_with_each_period_and_not_with_each_answer():
    table = Table(BUCKET, 1)
    told = []
    for _ in range(10):  # nothing arrives
        table.ask_for(0)
        table.hear(table.report(0))
        told.append(sum(len(grant.shares) for grant in table.step()))
        table.wait(0.1)
    assert told == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_a_limit_that_was_removed_and_added_does_not_start_full():
    table = Table(BUCKET, 1)
    table.share(0, seconds=2)
    assert table.spend(0) >= 9
    for specs in (None, BUCKET):
        if specs is None:
            del table.limits["s"]
        else:
            table.limits["s"] = specs
        table.owner.reload(table.now)
        table.round(0, units=100)
    table.queue()
    table.spend(0)
    table.limits["s"] = BUCKET
    assert not table.problems()


@pytest.mark.parametrize("spec", [BOTH, Spec(None, 1, (Window(50, 10 * SECOND),))])
def test_a_pause_gives_nothing(spec):
    table = Table(spec, 1)
    table.share(0)
    table.owner.pause(table.now, "s", table.now + 30 * SECOND)
    table.share(0, seconds=5)
    table.spend(0)
    table.share(0, seconds=2)
    assert table.spend(0) == 0
    assert table.queue() == 0
    table.owner.pause(table.now, "s", 0)
    table.share(0, seconds=2)
    assert table.spend(0) > 0


def test_a_quota_is_granted_from():
    table = Table(Spec(None, 1, (), (Quota(5, Per.DAY),)), 2)
    spent = 0
    for _ in range(60):
        for number in (0, 1):
            spent += table.spend(number)
            table.round(number)
            table.now -= SECOND // 10  # at once
            spent += table.spend(number)
        table.wait(0.1)
    assert spent == 5


def test_what_is_kept_is_all_that_counts():
    table = Table(BOTH, 2)
    for _ in range(30):
        table.round(0, 1, units=50)
        table.spend(0)
        table.queue()
    table.take_over(ahead=0)
    again = Owner(table.limits.get, table.terms)
    again.load(table.now, table.state)
    before, after = table.owner.budgets["s"], again.budgets["s"]
    assert before.parts.own == after.parts.own
    assert before.grants.outstanding == after.grants.outstanding
    assert [ledger.counted for ledger in before.grants.longs] == [ledger.counted for ledger in after.grants.longs]
    assert before.room(table.now) == after.room(table.now)
    free = before.parts.free(table.now)
    assert free == after.parts.free(table.now)
    assert again.version == table.owner.version


@pytest.mark.parametrize("data", [b"", b"\x02\x00", b"\x01\xc1", b"\x01\x91\xa5other"])
def test_state_that_can_not_be_read_is_said(data):
    with pytest.raises(StateError):
        Owner({}.get).load(0, {"owner": data})


def test_state_of_a_holder_that_is_gone_is_deleted():
    table = Table(BUCKET, 1)
    table.share(0)
    assert {key.split("/")[0] for key in table.state} == {"owner", "lease", "held", "budget"}
    table.wait(10)
    table.step()
    assert {key.split("/")[0] for key in table.state} == {"owner", "budget"}


def test_an_unknown_budget_is_denied():
    table = Table(BUCKET, 1)
    holder = table.holders[0]
    assert holder.check(table.local, ("nobody",)) is not None
    table.hear(table.holders[0].report(table.local))
    table.give(table.step())
    refusal = holder.check(table.local, ("nobody",))
    assert refusal is not None
    assert not refusal.asked


def test_a_ledger_counts_in_any_order():
    ledger = Ledger(10, SECOND)
    for at, units in ((5 * SECOND, 2), (4 * SECOND + 500_000_000, 3), (6 * SECOND, 1)):
        ledger.add(at, units)
    assert (ledger.counted, ledger.freed(3), ledger.freed(4)) == (6, 5_500_000_000, 6 * SECOND)
    assert ledger.freed(7) is None
    assert [ledger.until(time * SECOND) for time in (5, 6, 7)] == [0, 5, 6]
    ledger.expire(5_499_999_999)
    assert ledger.counted == 6
    ledger.expire(5_500_000_000)
    assert ledger.counted == 3


def test_an_account_that_grows_does_not_refill_what_may_yet_be_used():
    account = Account(0, 1_000_000_000, 10, tokens=True)
    account.charge(SECOND, 5)  # at any time within the next second
    account.resize(0, 100_000_000_000, 10)
    assert account.room(SECOND) == 5
    account = Account(0, 100_000_000_000, 10, tokens=True)
    account.charge(SECOND // 10, 10)
    account.resize(0, 1_000_000_000, 10)
    assert account.room(SECOND // 10) <= 0
    assert account.full >= 10 * UNIT
