"""The owner's side: division, the queue as one more holder, policy, pause, and what is kept."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_what_counts_is_written_again_only_where_more_does():
    """Of a window that is full of uses most stays as it is: it is not written with each step."""
    table = Table(Spec(None, 1, (Window(6000, 60 * SECOND),)), 1)
    for _ in range(300):
        table.round(0, units=20)
        table.spend(0)
    sizes = []
    for _ in range(10):
        table.spend(0)
        table.hear(table.report(0))
        grants = table.owner.step(table.now)
        changes = table.owner.drain_changes(table.now)
        table.state |= {key: value for key, value in changes.items() if value is not None}
        sizes.append(sum(len(value or b"") for value in changes.values()))
        table.give(grants)
        table.wait(0.1)
    assert len(table.uses) > 500
    assert max(sizes) < 500


def test_what_no_longer_counts_is_deleted():
    table = Table(Spec(None, 1, (Window(100, 10 * SECOND),)), 1)
    table.share(0)
    kept = []
    for _ in range(30):
        table.spend(0, 5)
        table.round(0, times=10, units=20)
        kept.append(sum(key.startswith("cells/") for key in table.state))
    assert 5 < max(kept[:15]) <= 40
    assert max(kept[15:]) <= max(kept[:15]) + 2
    table.hear(table.holders[0].report(table.local, leaving=True))
    table.wait(60)
    table.owner.forget_idle(table.now)
    table.step()
    assert {key.split("/")[0] for key in table.state} == {"owner"}


def test_a_window_that_is_gone_leaves_nothing_behind_for_one_that_comes():
    minute, bucket = Spec(None, 1, (Window(20, 60 * SECOND),)), BUCKET
    table = Table(minute, 1)
    table.share(0)
    assert table.spend(0) > 2
    table.round(0)
    assert any(key.startswith("cells/") for key in table.state)
    table.limits["s"] = bucket
    table.owner.reload(table.now)
    table.step()
    assert not any(key.startswith("cells/") for key in table.state)


def test_two_take_overs_without_a_word_in_between_leave_what_counts_as_it_was():
    """Each new owner has a clock of its own, and writes all times by it."""
    table = Table(Spec(Fraction(100), 100, (Window(100, SECOND), Window(1000, 60 * SECOND))), 2)
    for _ in range(30):
        table.round(0, 1, units=50)
        table.spend(0)
        table.queue()
    budget = table.owner.budgets["s"]
    later = [table.now + seconds * SECOND for seconds in (1, 10, 30, 59)]
    before = [[ledger.until(time) for time in later] for ledger in budget.grants.longs]
    lingers = {held.key: held.counts_until[0] - table.now for held in budget.held.values()}
    for ahead in (5000 * SECOND, -400 * SECOND):
        table.take_over(ahead)
        table.step()
    budget = table.owner.budgets["s"]
    after = [[ledger.until(time + table.ahead) for time in later] for ledger in budget.grants.longs]
    assert sum(map(sum, before)) > 20
    for counts, kept in zip(before, after, strict=True):
        assert all(abs(count - left) <= 10 for count, left in zip(counts, kept, strict=True))
    assert lingers.keys() == budget.held.keys()
    for held in budget.held.values():  # the time from the last record on counts for nothing
        assert 0 <= held.counts_until[0] - table.now - table.ahead - lingers[held.key] <= SECOND // 10


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


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(-3000, 3000), st.integers(0, 5)),
            st.tuples(st.just("wait"), st.integers(0, 4000), st.just(0)),
        ),
        max_size=60,
    )
)
def test_a_ledger_counts_as_a_list_of_all_uses_does(steps):
    """Of 1,000 cells of 2 ns each, in chunks: whatever is used when, and in which order."""
    ledger, now, uses = Ledger(10, 2000), 10_000, []
    for what, time, units in steps:
        if what == "wait":
            now += time
        else:
            ledger.add(now + time, units)
            uses += [-(-(now + time) // 2) * 2] * units
        ledger.expire(now)
        uses = sorted(at for at in uses if at > (now - 2000) // 2 * 2)
        assert ledger.counted == len(uses)
        for ahead in (1, 63, 64, 500, 1999, 3000):
            assert ledger.until(now + ahead) == sum(at <= now + ahead - 2000 for at in uses)
        for units_ in {1, len(uses) // 2, len(uses), len(uses) + 1} - {0}:
            assert ledger.freed(units_) == (uses[units_ - 1] + 2000 if units_ <= len(uses) else None)
        kept = [at + place * apart for number in ledger.chunks for _, at, apart, cells in [ledger.cells(number)]
                for place, count in enumerate(cells) for _ in range(count)]  # fmt: skip
        assert sorted(kept) == uses


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
