"""Whatever a caller passes: a clear error at once, with nothing touched; never a wrong number, never a held lock."""

import asyncio
import math
import re
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gate import RateLimitConfig, RateLimiter, TokenBucket
from gate.limits import Limiter, Spec, Window, parse_rate

SECOND = 10**9
START = 5 * SECOND
SPEC = Spec(Fraction(10), 20, (Window(50, SECOND), Window(90, 3 * SECOND)))

NO_NUMBERS: list[Any] = [True, False, None, "1", b"1", [], {}, 1j, object()]
NOT_WHOLE: list[Any] = [*NO_NUMBERS, 0.5, 1.0, math.nan, math.inf, -math.inf, Fraction(1), Decimal(1)]
NO_COSTS = [*NOT_WHOLE, 0, -1, -(2**70), -(10**5000)]
NO_COUNTS = [*NOT_WHOLE, -1, -(10**5000)]
NO_TIMES = [*NOT_WHOLE, 2**62 + 1, 2**127, 10**5000]  # ns; for `Limiter`
NO_SECONDS: list[Any] = [True, False, "1", b"1", [], 1j, math.nan, math.inf, -math.inf, 1e10, 10**5000, Fraction(1)]
NO_SERVICES: list[Any] = [None, 5, 1.5, b"api", ("api",), [], {}, "\ud800", Decimal("sNaN")]

LIMITER: dict[str, tuple[Callable[[Limiter, Any], object], list[Any]]] = {
    "fit now": (lambda s, x: s.fit(x, 1), NO_TIMES),
    "fit count": (lambda s, x: s.fit(START, x), NO_COUNTS),
    "fit cost": (lambda s, x: s.fit(START, 1, x), NO_COSTS),
    "charge now": (lambda s, x: s.charge(x, 1), NO_TIMES),
    "charge units": (lambda s, x: s.charge(START, x), NO_COUNTS),
    "take now": (lambda s, x: s.take(x, 1), NO_TIMES),
    "take several now": (lambda s, x: s.take(x, 2), NO_TIMES),
    "take count": (lambda s, x: s.take(START, x), NO_COUNTS),
    "take cost": (lambda s, x: s.take(START, 1, x), NO_COSTS),
    "take several cost": (lambda s, x: s.take(START, 2, x), NO_COSTS),
    "take_apart now": (lambda s, x: s.take_apart(x, 1, 1, 1, START), NO_TIMES),
    "take_apart count": (lambda s, x: s.take_apart(START, x, 1, 1, START), NO_COUNTS),
    "take_apart cost": (lambda s, x: s.take_apart(START, 1, x, 1, START), NO_COSTS),
    "take_apart grain": (lambda s, x: s.take_apart(START, 1, 1, x, START), NO_COSTS),
    "take_apart latest": (lambda s, x: s.take_apart(START, 1, 1, 1, x), NOT_WHOLE),
    "try_take now": (lambda s, x: s.try_take(x), NO_TIMES),
    "try_take never now": (lambda s, x: s.try_take(x, 10**6), NO_TIMES),
    "try_take cost": (lambda s, x: s.try_take(START, x), NO_COSTS),
    "ready_at now": (lambda s, x: s.ready_at(x), NO_TIMES),
    "ready_at cost": (lambda s, x: s.ready_at(START, x), NO_COSTS),
    "binding now": (lambda s, x: s.binding(x), NO_TIMES),
    "binding cost": (lambda s, x: s.binding(START, x), NO_COSTS),
    "tokens": (lambda s, x: s.tokens(x), NO_TIMES),
    "bucket_fill": (lambda s, x: s.bucket_fill(x), NO_TIMES),
    "window_fill": (lambda s, x: s.window_fill(x), NO_TIMES),
    "fullest": (lambda s, x: s.fullest(x), NO_TIMES),
    "idle": (lambda s, x: s.idle(x), NOT_WHOLE),
    "spent now": (lambda s, x: s.spent(x, 1), NO_TIMES),
    "spent span": (lambda s, x: s.spent(START, x), NO_COUNTS),
    "reconfigure spec": (lambda s, x: s.reconfigure(x, START), NOT_WHOLE),
    "reconfigure now": (lambda s, x: s.reconfigure(Spec(Fraction(1), 1, ()), x), NO_TIMES),
}
MAKING: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "Limiter spec": (lambda x: Limiter(x, 0), NOT_WHOLE),
    "Limiter now": (lambda x: Limiter(SPEC, x), [*NO_TIMES, -(2**62) - 1]),
    "load spec": (lambda x: Limiter.load(x, used().dump()), [x for x in NOT_WHOLE if x is not None]),
    "load data": (lambda x: Limiter.load(SPEC, x), [*NOT_WHOLE, b"", b"\0" * 20, "x" * 20]),
    "Spec rate": (lambda x: Spec(x, 1, ()), [x for x in NO_COSTS if x is not None and x != Fraction(1)]),
    "Spec burst": (lambda x: Spec(Fraction(1), x, ()), NO_COSTS),
    "Spec unused burst": (lambda x: Spec(None, x, ()), NO_COUNTS),
    "Spec windows": (lambda x: Spec(None, 1, x), [*NOT_WHOLE, (1,), (None,)]),
    "Window limit": (lambda x: Window(x, 1), [*NO_COSTS, 2**62 + 1, 10**5000]),
    "Window size": (lambda x: Window(1, x), [*NO_COSTS, 2**62 + 1, 10**5000]),
    "parse_rate": (
        parse_rate,
        [x for x in NO_NUMBERS if x != "1"]
        + [0, -1, math.nan, math.inf, Decimal("NaN"), Decimal("sNaN"), Decimal("1e999999999"), Decimal("1e-999999999"),
           10**400, -(10**5000), 10**5000, Fraction(1, 10**400), 1e300, 5e-324, "x" * 10**6, "\ud800", "1/0s"],
    ),
    "TokenBucket rate": (lambda x: TokenBucket(x, 1), [0, -1, None, math.nan, True, 10**400]),
    "TokenBucket burst": (lambda x: TokenBucket(1, x), NO_COSTS),
    "TokenBucket clock": (lambda x: TokenBucket(1, 1, clock=x), [x for x in NOT_WHOLE if x is not None]),
    "TokenBucket times": (lambda x: TokenBucket(1, 1, clock=lambda: x), NO_TIMES),
    "RateLimiter clock": (lambda x: RateLimiter(clock=x), [x for x in NOT_WHOLE if x is not None]),
    "RateLimiter times": (lambda x: RateLimiter(clock=lambda: x), [*NO_TIMES, time.monotonic()]),
    "RateLimitConfig rate": (lambda x: RateLimitConfig(x, 1), [0, -1, None, math.nan, True, 10**400, "often"]),
    "RateLimitConfig burst": (lambda x: RateLimitConfig(1, x), NO_COSTS),
    "RateLimitConfig size": (
        lambda x: RateLimitConfig(1, 1, x),
        [*NO_NUMBERS, 0, -1, math.nan, math.inf, 10**400, 10**5000, Decimal("NaN"), Decimal("sNaN"),
         Decimal("Infinity"), Decimal("1e999999999"), Decimal("1e-999999999"), Decimal("-1e999999999"),
         Fraction(1, 10**400)],
    ),
    "RateLimitConfig limit": (lambda x: RateLimitConfig(1, 1, 1, x), [x for x in NO_COSTS if x is not None]),
    "RateLimitConfig windows": (
        lambda x: RateLimitConfig(1, 1, windows=x),
        [True, None, 1, 0.5, "ab", [1], [(1, 2, 3)], [(True, 1)], [(1, math.nan)], [(0.5, 1)], object()],
    ),
}  # fmt: skip
LIBRARY: dict[str, tuple[Callable[[RateLimiter, Any], object], list[Any]]] = {
    "check service": (lambda s, x: s.check(x), NO_SERVICES),
    "check time": (lambda s, x: s.check("told", x), NO_SECONDS),
    "check cost": (lambda s, x: s.check("api", cost=x), NO_COSTS),
    "check time of an unknown": (lambda s, x: s.check("unknown", x), NO_SECONDS),
    "check cost of an unknown": (lambda s, x: s.check("unknown", None, x), NO_COSTS),
    "check time of a new one": (lambda s, x: s.check("idle", x), NO_SECONDS),
    "check cost of a new one": (lambda s, x: s.check("idle", cost=x), NO_COSTS),
    "await check service": (lambda s, x: asyncio.run(s.check_rate_limit(x)), NO_SERVICES),
    "await check time": (lambda s, x: asyncio.run(s.check_rate_limit("told", x)), NO_SECONDS),
    "await check cost": (lambda s, x: asyncio.run(s.check_rate_limit("api", cost=x)), NO_COSTS),
    "configure service": (lambda s, x: s.configure(x, RateLimitConfig(1, 1)), NO_SERVICES),
    "configure": (lambda s, x: s.configure("api", x), [*NOT_WHOLE, {"requests_per_second": 1}]),
    "await configure service": (lambda s, x: asyncio.run(s.configure_limit(x, RateLimitConfig(1, 1))), NO_SERVICES),
    "remove": (lambda s, x: asyncio.run(s.remove_limit(x)), NO_SERVICES),
    "usage service": (lambda s, x: s.usage(x), NO_SERVICES),
    "usage time": (lambda s, x: s.usage("told", x), NO_SECONDS),
    "usage time of an unknown": (lambda s, x: s.usage("unknown", x), NO_SECONDS),
    "usage time of a new one": (lambda s, x: s.usage("idle", x), NO_SECONDS),
    "await usage": (lambda s, x: asyncio.run(s.get_current_usage("unknown", x)), NO_SECONDS),
    "forget_idle": (lambda s, x: s.forget_idle(x), NO_SECONDS),
    "restore": (lambda s, x: s.restore(x), [*NOT_WHOLE, b"", b"\0" * 20, "x" * 20]),
}
BUCKET: dict[str, tuple[Callable[[TokenBucket, Any], object], list[Any]]] = {
    "try_consume": (lambda s, x: s.try_consume(x), NO_COSTS),
    "retry_after": (lambda s, x: s.retry_after(x), NO_COSTS),
}
# what Python says where something went wrong inside
INTERNAL = re.compile(
    r"operand|subscriptable|iterable|attribute|not supported between|unpack|integer string conversion"
    r"|signaling|can't multiply|object is not callable"
)


def refused(ask: Callable[[], object]) -> None:
    """Hold a call to an error in words about the argument."""
    with pytest.raises((TypeError, ValueError)) as caught:
        ask()
    assert_told(caught.value)


def assert_told(error: Exception) -> None:
    assert not INTERNAL.search(str(error)), str(error)
    assert len(str(error)) < 400


def cases(table: dict[str, tuple[Any, list[Any]]]) -> Any:
    return pytest.mark.parametrize(("ask", "hostile"), table.values(), ids=table.keys())


def used() -> Limiter:
    subject = Limiter(SPEC, 0)
    for step in range(300):
        subject.take(step * SECOND // 60, 2)
    return subject


@cases(LIMITER)
def test_the_mathematics_refuse_it_and_stay_as_they_were(ask: Callable[[Limiter, Any], object], hostile: Any) -> None:
    subject = used()
    before = subject.dump()
    for argument in hostile:
        refused(lambda: ask(subject, argument))  # noqa: B023
        assert subject.dump() == before, argument


@cases(MAKING)
def test_nothing_is_made_of_it(ask: Callable[[Any], object], hostile: Any) -> None:
    for argument in hostile:
        refused(lambda: ask(argument))  # noqa: B023


@cases(LIBRARY)
def test_the_library_refuses_it_and_stays_as_it_was(ask: Callable[[RateLimiter, Any], object], hostile: Any) -> None:
    subject = RateLimiter(clock=lambda: START)
    for service in ("api", "told", "idle"):
        subject.configure(service, RateLimitConfig(1, 5))
    subject.check("api", cost=2)
    subject.check("told", 1.0, 3)
    before = subject.snapshot()
    for argument in hostile:
        refused(lambda: ask(subject, argument))  # noqa: B023
        assert not subject._lock.locked(), argument
        assert subject.snapshot() == before, argument
    assert (subject.check("api", cost=3)[0], subject.check("told", 1.0, 2)[0]) == (True, True)
    assert (subject.check("api")[0], subject.check("told", 1.0)[0]) == (False, False)


@cases(BUCKET)
def test_a_bucket_refuses_it_and_stays_as_it_was(ask: Callable[[TokenBucket, Any], object], hostile: Any) -> None:
    subject = TokenBucket(1, 5, clock=lambda: START)
    subject.try_consume(2)
    for argument in hostile:
        refused(lambda: ask(subject, argument))  # noqa: B023
        assert subject.tokens == 3, argument


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), st.decimals(),
    st.fractions(), st.complex_numbers(), st.lists(st.integers(), max_size=2), st.integers(2**61, 2**130),
    st.sampled_from([math.nan, math.inf, -math.inf, 2**62, 2**62 + 1, -(2**62) - 1, 2**127, 10**5000]),
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(sorted(LIMITER)), anything), max_size=8))
def test_no_sequence_of_arguments_spoils_a_limiter(calls: list[tuple[str, Any]]) -> None:
    """What is taken, is taken whole; what is refused changes nothing; the state can be kept and read at any time."""
    subject = used()
    for name, argument in calls:
        before = subject.dump()
        try:
            LIMITER[name][0](subject, argument)
        except (TypeError, ValueError) as error:
            assert_told(error)
            assert subject.dump() == before
        assert type(subject.last) is int
        assert Limiter.load(None, subject.dump()).dump() == subject.dump()


@given(st.lists(st.tuples(st.sampled_from(sorted(LIBRARY)), anything), max_size=8))
def test_no_sequence_of_arguments_spoils_the_library(calls: list[tuple[str, Any]]) -> None:
    subject = RateLimiter(clock=lambda: START)
    subject.configure("idle", RateLimitConfig(1, 5))
    subject.configure("api", RateLimitConfig(1, 5))
    assert all(subject.check("api")[0] for _ in range(5))
    for name, argument in calls:
        if name.startswith(("await", "remove")):
            continue
        try:
            LIBRARY[name][0](subject, argument)
        except (TypeError, ValueError) as error:
            assert_told(error)
        assert not subject._lock.locked()
        assert subject.check("api") == (False, 1.0)
        RateLimiter().restore(subject.snapshot())
