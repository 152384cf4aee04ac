"""Step tables, as in golang/time: each line is a time, a request, and what must come of it."""

from fractions import Fraction

import pytest

from gate.limits import NEVER, Limiter, Spec, Window, parse_rate

MS = 10**6
SECOND = 10**9


def limiter(rate: object = None, burst: int = 1, *windows: tuple[int, int], at: int = 0) -> Limiter:
    spec = Spec(None if rate is None else parse_rate(rate), burst, tuple(Window(*window) for window in windows))
    return Limiter(spec, at)


def run(subject: Limiter, steps: list[tuple[int, int, int, int]]) -> None:
    """(time, how many, of which cost, how many fit); what fits is charged."""
    for number, (now, count, cost, fitting) in enumerate(steps):
        assert subject.fit(now, count, cost) == fitting, f"step {number}"
        assert subject.take(now, count, cost) == fitting, f"step {number}"


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    run(
        limiter(10, 3),
        [
            (0, 5, 1, 3),
            (99 * MS, 1, 1, 0),
            (100 * MS, 2, 1, 1),
            (199_999_999, 1, 1, 0),
            (200 * MS, 1, 1, 1),
            (10 * SECOND, 9, 1, 3),
        ],
    )


def test_a_third_per_second_is_a_third() -> None:
    run(limiter("1/3s", 1), [(0, 1, 1, 1), (3 * SECOND - 1, 1, 1, 0), (3 * SECOND, 1, 1, 1), (6 * SECOND, 2, 1, 1)])


def test_a_rate_that_is_no_whole_number_of_ns_does_not_drift() -> None:
    subject = limiter(3, 1)  # a unit takes 333,333,333 1/3 ns
    assert subject.take(0, 1) == 1
    times = []
    now = 0
    for _ in range(9):
        now = subject.ready_at(now)
        times.append(now)
        assert subject.take(now, 1) == 1
    assert times[:3] == [333_333_334, 666_666_668, 1_000_000_002]  # each waits for a whole ns, once
    greedy = limiter(3, 2)  # with room for the fraction nothing of it is lost
    greedy.take(0, 2)
    assert [greedy.take(second * SECOND // 3 + 1, 1) for second in range(1, 3001)] == [1] * 3000


def test_a_window_is_half_open() -> None:
    run(
        limiter(None, 1, (2, SECOND)),
        [
            (0, 1, 1, 1),
            (400 * MS, 1, 1, 1),
            (SECOND - 1, 1, 1, 0),
            (SECOND, 2, 1, 1),
            (1400 * MS - 1, 1, 1, 0),
            (1400 * MS, 1, 1, 1),
        ],
    )


def test_all_limits_are_checked_before_any_is_charged() -> None:
    subject = limiter(1, 10, (5, SECOND), (6, 10 * SECOND))
    run(subject, [(0, 3, 2, 2), (0, 1, 2, 0), (0, 1, 1, 1), (0, 1, 1, 0)])
    assert subject.tokens(0) == 5  # refusals took nothing
    run(subject, [(SECOND, 3, 1, 1), (9 * SECOND, 1, 1, 0), (10 * SECOND, 6, 1, 5)])


@pytest.mark.parametrize(
    ("cost", "ready", "binding"),
    [(1, 0, None), (3, 0, None), (4, SECOND, "rate"), (5, 2 * SECOND, "rate"), (6, NEVER, "rate")],
)
def test_ready_at_tells_when_and_binding_who(cost: int, ready: int, binding: str | None) -> None:
    subject = limiter(1, 5, (100, SECOND))
    subject.charge(0, 2)
    limit = subject.binding(0, cost)
    assert (subject.ready_at(0, cost), limit and limit.name) == (ready, binding)


def test_later_is_not_never() -> None:
    subject = limiter(None, 1, (5, SECOND), (100, 60 * SECOND))
    subject.charge(0, 5)
    assert (subject.ready_at(0, 5), subject.ready_at(0, 6)) == (SECOND, NEVER)
    assert [limit and limit.name for limit in (subject.binding(0, 5), subject.binding(0, 6))] == ["window", "window"]
    assert subject.spec.ceiling == 5
    assert limiter().spec.ceiling is None


def test_no_limit_at_all_admits_everything() -> None:
    subject = limiter()
    assert subject.take(0, 10**30, 10**30) == 10**30
    assert subject.take(0, 1) == 1
    assert subject.ready_at(5) == 5
    assert subject.idle(0)
    assert Limiter.load(subject.spec, subject.dump()).dump() == subject.dump()


def test_a_time_that_steps_back_is_the_newest_seen() -> None:
    subject = limiter(10, 5, (7, 10 * SECOND))
    run(
        subject,
        [(5 * SECOND, 9, 1, 5), (0, 1, 1, 0), (5 * SECOND + 99 * MS, 1, 1, 0), (5 * SECOND + 100 * MS, 2, 1, 1)],
    )
    assert subject.tokens(0) == 0
    assert subject.ready_at(0) == 5 * SECOND + 200 * MS


def test_a_charge_without_asking_counts_in_full() -> None:
    subject = limiter(10, 5, (7, SECOND))
    subject.charge(0, 2**80)  # far above every limit
    assert subject.fit(SECOND - 1, 1) == 0
    assert subject.window_fill(0) > 1
    assert subject.fit(SECOND, 1) == 0  # the bucket is in debt for long
    windowed = limiter(None, 1, (7, SECOND))
    windowed.charge(0, 2**80)
    windowed.charge(1, 2**80)
    assert windowed.ready_at(0) == SECOND + 1


@pytest.mark.parametrize("cost", [0, -1, -(2**70)])
def test_a_cost_below_one_is_refused_with_a_clear_error(cost: int) -> None:
    subject = limiter(1, 1, (1, SECOND))
    for ask in (lambda: subject.fit(0, 1, cost), lambda: subject.try_take(0, cost), lambda: subject.take(0, 2, cost)):
        with pytest.raises(ValueError, match="at least 1"):
            ask()
    assert subject.idle(0)


@pytest.mark.parametrize("cost", [True, 1.0, "1", None])
def test_a_cost_that_is_no_whole_number_is_refused(cost: object) -> None:
    with pytest.raises(TypeError, match="whole number"):
        limiter(1, 1).try_take(0, cost)


def test_a_cost_beyond_all_measure_never_fits() -> None:
    subject = limiter(1, 5, (7, SECOND))
    assert subject.try_take(0, 2**200) == NEVER
    assert subject.ready_at(0, 2**63) == NEVER
    assert subject.take(0, 2**63, 2**63) == 0
    assert subject.idle(0)


@pytest.mark.parametrize("now", [2**62 + 1, 2**100])
def test_a_time_that_cannot_be_kept_is_refused_and_poisons_nothing(now: int) -> None:
    for subject in (limiter(1, 1, (1, SECOND)), limiter(1, 1)):
        for ask in (subject.try_take, subject.ready_at, lambda now: subject.charge(now, 1)):  # noqa: B023
            with pytest.raises(ValueError, match="now must be a time in ns"):
                ask(now)
        assert subject.take(0, 1) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((1, 1, ()), TypeError, "rate must be a Fraction"),
        ((Fraction(0), 1, ()), ValueError, "rate must be above 0"),
        ((Fraction(1), 0, ()), ValueError, "burst must be from 1"),
        ((Fraction(1), True, ()), TypeError, "burst must be a whole number"),
        ((None, 1, [Window(1, 1)]), TypeError, "windows must be a tuple"),
    ],
)
def test_a_spec_says_what_is_wrong(arguments: tuple[object, ...], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Spec(*arguments)


@pytest.mark.parametrize("limit_size", [(0, 1), (1, 0), (-1, 1), (2**63, 1), (1, 2**63)])
def test_a_window_says_what_is_wrong(limit_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"a window's (limit|size) must be from 1 to 2\^62"):
        Window(*limit_size)


class TestReconfigure:
    def test_tokens_are_kept_and_never_minted(self) -> None:
        subject = limiter(1, 10)
        subject.charge(0, 4)
        subject.reconfigure(limiter(2, 100).spec, 0)
        assert subject.tokens(0) == 6
        assert subject.tokens(SECOND) == 8
        assert not subject.idle(46 * SECOND)
        assert subject.idle(47 * SECOND)

    def test_tokens_are_capped(self) -> None:
        subject = limiter(1, 100)
        subject.reconfigure(limiter(1, 10).spec, 0)
        assert subject.tokens(0) == 10
        subject.reconfigure(limiter(1, 100).spec, 0)
        assert subject.tokens(0) == 10

    def test_what_is_in_the_window_stays_counted(self) -> None:
        subject = limiter(None, 1, (10, SECOND))
        subject.charge(0, 8)
        subject.reconfigure(limiter(None, 1, (5, SECOND)).spec, 1)
        assert subject.fit(1, 9) == 0
        assert subject.window_fill(1) == 8 / 5
        assert subject.fit(SECOND, 9) == 5

    def test_also_when_its_size_changes(self) -> None:
        subject = limiter(None, 1, (10, SECOND))
        subject.charge(0, 8)
        subject.reconfigure(limiter(None, 1, (10, 5 * SECOND)).spec, 1)
        assert subject.fit(5 * SECOND - 1, 9) == 2
        subject.reconfigure(limiter(None, 1, (10, 2 * SECOND), (9, 7 * SECOND)).spec, 1)
        assert subject.ready_at(0, 9) == 7 * SECOND

    def test_a_compressed_window_is_carried_over(self) -> None:
        subject = limiter(None, 1, (1000, SECOND))
        for now in range(0, 900 * MS, MS):
            subject.charge(now, 1)
        subject.reconfigure(limiter(None, 1, (100, SECOND), (2000, 3 * SECOND)).spec, 900 * MS)
        assert subject.fit(1799 * MS, 200) == 0  # cells of a ms: what came at 800 to 899 ms
        assert subject.fit(1849 * MS, 200) == 50
        subject.reconfigure(limiter(None, 1, (1000, 3 * SECOND)).spec, 1849 * MS)
        assert subject.fit(2999 * MS, 2000) in (100, 101, 102)  # cells of 3 ms, and nothing minted


@pytest.mark.parametrize("size", [1, 7, 999, 1000, 1001, SECOND, 3600 * SECOND, 2**61])
@pytest.mark.parametrize("limit", [1, 120, 121, 65535, 65536, 10**12, 2**62])
def test_full_use_of_a_window_at_once_comes_back_at_once(size: int, limit: int) -> None:
    subject = limiter(None, 1, (limit, size))
    assert subject.take(3, limit + 1) == limit
    assert subject.ready_at(3, limit) == 3 + size
    assert subject.fit(3 + size - 1, 1) == 0
