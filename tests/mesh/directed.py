"""The cases that the rules were found by, each played by hand: what is returned was exceeded."""

from collections.abc import Callable
from fractions import Fraction

from gate.limits import Spec, Window
from gate.mesh.holder import Holder
from gate.mesh.terms import Terms
from gate.units import MS, SECOND
from tests.mesh.checker import over
from tests.mesh.table import TERMS, Table
from tests.mesh.world import Mesh, Proc

SHORT = Spec(None, 1, (Window(10, 2 * SECOND),))
LONG = Spec(None, 1, (Window(40, 6 * SECOND),))
BUCKET = Spec(Fraction(10), 10, ())
RARE = Spec(None, 1, (Window(1, 10 * SECOND),))

CASES: dict[str, tuple[Callable[[], list[str]], tuple[str, ...]]] = {}


def _finds(*mutants: str) -> Callable[[Callable[[], list[str]]], Callable[[], list[str]]]:
    def register(case: Callable[[], list[str]]) -> Callable[[], list[str]]:
        CASES[case.__name__] = (case, mutants)
        return case

    return register


def _alone(spec: Spec, terms: Terms = TERMS) -> Table:
    """The first of two holders has all."""
    table = Table(spec, 2, terms)
    table.share(0)
    return table


def _saturate(table: Table, number: int, seconds: float) -> None:
    """Use all that can be had."""
    for _ in range(round(seconds * 10)):
        table.share(number, seconds=0.1)
        table.spend(number)


def _want(mesh: Mesh, proc: Proc, until: int) -> None:
    """Want much, use nothing."""
    (proc.holder._held.get("s") or proc.holder._meet("s")).wanted += 10
    proc.arm()
    if mesh.events.now < until:
        mesh.events.after(100 * MS, _want, mesh, proc, until)


# 1: shrink before grow


@_finds("grown_before_shrunk")
def a_recall_that_does_not_arrive() -> list[str]:
    table = _alone(SHORT)
    for _ in range(5):
        table.ask_for(1)
        table.hear(table.report(1))
        table.wait(0.1)
        grants = table.step()
        table.give([grant for grant in grants if grant.holder == "p1"])
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("only_acknowledged_reserved")
def a_part_whose_receipt_is_not_told() -> list[str]:
    table = Table(SHORT, 2)
    table.ask_for(0)
    table.hear(table.report(0))
    table.give(table.step())
    table.share(1, deaf=[0])
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("counts_not_reserved")
def what_was_given_up_still_counts() -> list[str]:
    table = _alone(SHORT)
    table.spend(0)
    table.share(0, 1, seconds=0.5)
    table.spend(1)
    return table.problems()


@_finds("own_counts_not_reserved")
def what_the_queue_took_still_counts() -> list[str]:
    table = Table(SHORT, 1)
    table.queue()
    table.share(0, seconds=0.5)
    table.spend(0)
    return table.problems()


@_finds("sliding_part_given_away")
def what_the_queue_gives_up_as_it_goes_on() -> list[str]:
    table = Table(SHORT, 1)
    for _ in range(20):
        if table.owner.room(table.now, "s"):
            table.owner.charge(table.now, "s", 1)
            table.uses.append((table.now, 1))
        table.wait(0.2)
    for _ in range(20):
        table.owner.want(table.now, "s", 5)
        table.round(0, units=3)
        table.spend(0)
        table.queue()
    return table.problems()


# 2: versions


@_finds("older_part_applied")
def a_part_comes_twice() -> list[str]:
    table = Table(SHORT, 2)
    table.ask_for(0)
    table.hear(table.report(0))
    grants = table.step()
    table.give(grants)
    table.share(0, 1)
    table.give(grants)
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("ended_lease_revived")
def a_part_of_an_ended_lease_comes_late() -> list[str]:
    table = Table(BUCKET, 2)
    table.hear(table.report(0))
    table.give(table.step())
    table.ask_for(0)
    table.hear(table.report(0))
    late = table.step()
    table.wait(0.5)
    table.share(1, seconds=5, deaf=[0])
    table.hear(table.report(0))
    table.give(table.step())
    table.give(late)
    table.wait(1.5)
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("lease_from_receipt")
def an_answer_comes_late() -> list[str]:
    table = _alone(BUCKET)
    table.ask_for(0)
    table.hear(table.report(0))
    late = table.step()
    table.wait(2)
    table.give(late)
    table.share(1, seconds=3.5, deaf=[0])
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("push_extends", "lapse_ignored")
def a_part_is_pushed_to_whom_nobody_hears() -> list[str]:
    table = _alone(BUCKET)
    table.share(1, seconds=3.5)  # what is recalled from the first reaches it; what it reports is lost
    table.limits["s"] = Spec(Fraction(11), 10, ())
    table.owner.reload(table.now)
    table.share(1, seconds=2)
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("old_report_heard")
def a_report_comes_twice() -> list[str]:
    table = Table(SHORT, 2)
    table.ask_for(0)
    first = table.report(0)
    table.hear(first)
    table.give(table.step())
    table.share(0)
    table.hear(first)
    for _ in range(8):
        table.ask_for(1)
        table.hear(table.report(1))
        table.give([grant for grant in table.step() if grant.holder == "p1"])
        table.wait(0.1)
    table.spend(1)
    table.spend(0)
    return table.problems()


# 3: lapse and epoch


@_finds("lapse_ignored")
def a_holder_stops_beyond_its_lease() -> list[str]:
    table = _alone(SHORT)
    table.wait(4.1)
    table.share(1, seconds=3)
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("lapse_keeps_tokens")
def tokens_are_kept_through_a_lapse() -> list[str]:
    table = _alone(BUCKET)
    table.wait(4.1)
    table.share(1, seconds=2)
    table.spend(1)
    for _ in range(6):
        table.ask_for(0)
        table.hear(table.report(0), table.report(1))
        table.give(table.step())
        table.wait(0.06)
    table.spend(0)
    return table.problems()


@_finds("lapse_forgets_counts")
def counts_are_kept_through_a_lapse() -> list[str]:
    table = Table(Spec(None, 1, (Window(10, 5 * SECOND),)), 2)
    table.share(0, 1)
    for _ in range(37):
        table.round(0, 1, units=1000, deaf=[0])
    table.spend(0)
    table.wait(0.3)
    table.share(0, 1, seconds=0.5)
    table.spend(0)
    table.spend(1)
    return table.problems()


@_finds("lapse_keeps_grants")
def granted_units_outlast_the_lease() -> list[str]:
    table = _alone(LONG)
    table.wait(9.8)
    table.share(0, seconds=0.5)
    for _ in range(60):
        table.spend(0)
        table.queue()
        table.wait(0.1)
    return table.problems()


@_finds("lapsed_part_revived")
def a_new_lease_without_the_part() -> list[str]:
    table = _alone(SHORT)
    table.wait(4.1)
    table.share(1, seconds=3)
    table.hear(table.report(0))
    table.give(table.step())
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("child_is_its_parent")
def a_process_forks() -> list[str]:
    table = _alone(SHORT)
    table.holders[1] = table.holders[0].forked(2, table.local)
    table.spend(0)
    table.spend(1)
    return table.problems()


@_finds("new_epoch_replaces")
def a_process_starts_again_while_the_old_one_lives() -> list[str]:
    table = _alone(SHORT)
    table.holders[1] = Holder("p0", 2, table.local, table.terms)
    for _ in range(8):
        table.ask_for(1)
        table.hear(table.report(1))
        table.give([grant for grant in table.step() if grant.epoch == 2])
        table.wait(0.1)
    table.spend(0)
    table.spend(1)
    return table.problems()


# 4: start empty


@_finds("part_starts_full")
def a_new_part_of_a_spent_bucket() -> list[str]:
    table = Table(BUCKET, 1)
    table.queue()
    table.ask_for(0)
    table.hear(table.report(0))
    table.give(table.step())
    table.spend(0)
    return table.problems()


@_finds("growth_brings_tokens")
def a_part_grows_when_another_leaves() -> list[str]:
    table = Table(BUCKET, 2)
    table.share(0, 1, seconds=2)
    table.spend(0)
    table.spend(1)
    report = table.holders[1].report(table.local, leaving=True)
    assert report is not None
    table.hear(report)
    table.share(0, seconds=0.3)
    table.spend(0)
    return table.problems()


# 5: clocks, take-over and death


@_finds("clock_stands_while_suspended")
def a_machine_sleeps() -> list[str]:
    mesh = Mesh({"s": SHORT}, terms=TERMS)
    first, second = mesh.proc("p0"), mesh.proc("p1")
    _want(mesh, first, 3 * SECOND)
    mesh.run(3)
    first.spend = lambda: [first.check(("s",)) for _ in range(20)] and None  # as soon as it is awake
    first.suspend(8 * SECOND)
    _want(mesh, second, 11 * SECOND)
    mesh.run(8.1)
    while second.check(("s",)) is None:
        pass
    return over(SHORT, mesh.uses["s"])


@_finds("clocks_believed")
def a_window_of_minutes_and_a_fast_clock() -> list[str]:
    spec = Spec(None, 1, (Window(100, 600 * SECOND),))
    table = Table(spec, 1, Terms(period_ns=SECOND, lease_ns=60 * SECOND, short_ns=1000 * SECOND), fast=900)
    table.share(0)
    table.spend(0)
    while table.now < 1000 * SECOND + 602 * SECOND:
        table.round(0, units=1000)
        table.spend(0)
        table.wait(20 if table.now < 1570 * SECOND else 0.01)
    return table.problems()


@_finds("leases_forgotten", "parts_not_kept", "leases_end_as_written")
def an_owner_takes_over() -> list[str]:
    table = _alone(BUCKET)
    table.wait(1)
    table.take_over()
    table.share(1, seconds=2)
    table.spend(1)
    table.spend(0)
    return table.problems()


@_finds("counts_forgotten", "clocks_compared")
def an_owner_with_another_clock_takes_over() -> list[str]:
    table = _alone(LONG)
    _saturate(table, 0, 6)
    table.take_over(ahead=10**6 * SECOND)
    table.queue()
    return table.problems()


@_finds("dead_parts_forgotten")
def a_holder_dies_with_its_window_full() -> list[str]:
    table = _alone(SHORT)
    table.wait(3.8)
    table.spend(0)
    table.share(1, seconds=0.8)
    table.spend(1)
    return table.problems()


@_finds("dead_grants_returned", "dead_grants_counted_from_the_report")
def a_holder_dies_with_units_that_it_used_last() -> list[str]:
    table = _alone(LONG)
    _saturate(table, 1, 3.8)
    table.spend(0)
    _saturate(table, 1, 8)
    return table.problems()


# 6: policy


@_finds("lower_limit_not_told")
def a_limit_is_lowered() -> list[str]:
    table = _alone(BUCKET)
    table.limits["s"] = Spec(Fraction(2), 2, ())
    table.owner.reload(table.now)
    table.share(0, seconds=4.2)
    begin = table.now
    table.spend(0)
    return table.problems(begin=begin)


@_finds("grants_outlast_their_limit")
def a_limit_is_lowered_under_units_that_are_out() -> list[str]:
    table = _alone(LONG)
    table.limits["s"] = Spec(None, 1, (Window(1, 6 * SECOND),))
    table.owner.reload(table.now)
    table.share(0, seconds=4.2)
    begin = table.now
    table.spend(0)
    return table.problems(begin=begin)


# 8: what is kept


@_finds("granted_before_commit")
def an_owner_dies_before_its_commit() -> list[str]:
    mesh = Mesh({"s": BUCKET})
    first, second = mesh.proc("p0"), mesh.proc("p1")
    mesh.host.cut = "before parts"
    _want(mesh, first, SECOND)
    mesh.events.at(2 * SECOND, _want, mesh, second, 12 * SECOND)
    mesh.run(9)
    for proc in (second, first):
        while proc.check(("s",)) is None:
            pass
    return over(BUCKET, mesh.uses["s"])


# granted units


@_finds("charged_when_granted")
def units_are_used_long_after_they_were_granted() -> list[str]:
    table = _alone(LONG)
    for _ in range(29):
        table.ask_for(0)
        _saturate(table, 1, 0.1)
        table.round(0, units=1000)
    table.spend(0)
    _saturate(table, 1, 7)
    return table.problems()


@_finds("not_before_forgotten", "ages_too_old", "told_again_returned_again")
def units_that_come_free_later() -> list[str]:
    table = _alone(LONG)
    for _ in range(40):
        table.spend(0, 1)
        table.ask_for(0)
        table.hear(table.report(0))
        table.wait(0.05)
        table.ask_for(0)
        table.hear(table.report(0))
        table.wait(0.05)
        table.give(table.step())
        table.spend(0, 1)
        table.wait(0.1)
    return table.problems()


@_finds("age_of_the_first")
def uses_that_are_told_as_one() -> list[str]:
    table = _alone(LONG)
    for _ in range(250):
        table.spend(0, 1)
        table.wait(0.024)
        table.spend(0, 1)
        table.wait(0.024)
        table.spend(0, 1)
        table.round(0, units=1000)
        table.now -= 97 * MS
    return table.problems()


# direct requests


def _slots() -> tuple[Table, Callable[[int], bool]]:
    table = Table(RARE, 2)
    table.share(0, 1, seconds=0.5)

    def ask(number: int) -> bool:
        table.holders[number].check(table.local, ("s",), 1)
        table.hear(table.report(number))
        table.give(table.step())
        return bool(table.holders[number].questions.slots)

    return table, ask


@_finds("direct_charged_at_once")
def a_direct_answer_is_used_late() -> list[str]:
    table, ask = _slots()
    assert ask(0)
    table.wait(0.098)
    table.spend(0, 1)
    table.now += 9_850 * MS
    for _ in range(200):
        ask(1)
        table.spend(1, 1)
        table.wait(0.01)
        table.holders[1].questions.denied.clear()
    return table.problems()


@_finds("slot_never_void")
def a_direct_answer_is_used_too_late() -> list[str]:
    table, ask = _slots()
    assert ask(0)
    table.wait(5)
    table.spend(0, 1)
    table.wait(5.2)
    ask(1)
    table.spend(1, 1)
    return table.problems()


@_finds("slot_from_receipt")
def a_direct_answer_comes_late() -> list[str]:
    table, _ = _slots()
    table.holders[0].check(table.local, ("s",), 1)
    table.hear(table.report(0))
    grants = table.step()
    table.wait(3)
    table.give(grants)
    table.spend(0, 1)
    table.wait(7.2)
    table.holders[1].check(table.local, ("s",), 1)
    table.hear(table.report(1))
    table.give(table.step())
    table.spend(1, 1)
    return table.problems()


@_finds("slot_used_twice")
def a_direct_answer_is_used_twice() -> list[str]:
    table, ask = _slots()
    ask(0)
    table.spend(0, 2)
    return table.problems()
