"""What people write: rates, configurations, seconds."""

import math
from decimal import Decimal
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from gate import RateLimitConfig
from gate.limits import Window, parse_rate
from gate.limits.seconds import delay, to_ns

SECOND = 10**9


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        (5, Fraction(5)),
        (2.5, Fraction(5, 2)),
        (0.1, Fraction(1, 10)),
        (1e-9, Fraction(1, 10**9)),
        (1e12, Fraction(10**12)),
        (Fraction(1, 3), Fraction(1, 3)),
        (Decimal("0.3"), Fraction(3, 10)),
        ("7", Fraction(7)),
        ("1e-9", Fraction(1, 10**9)),
        ("10/min", Fraction(1, 6)),
        ("1/3s", Fraction(1, 3)),
        ("5/10s", Fraction(1, 2)),
        ("5/0.5s", Fraction(10)),
        (" 0.5 / h ", Fraction(1, 7200)),
        ("3 per second", Fraction(3)),
        ("3 per 2 minutes", Fraction(1, 40)),
        ("24/day", Fraction(1, 3600)),
        ("60/M", Fraction(1)),
    ],
)
def test_a_rate_is_read_exactly(written: object, rate: Fraction) -> None:
    assert parse_rate(written) == rate


@pytest.mark.parametrize("unit", ["s", "sec", "second", "seconds", "m", "min", "minute", "minutes", "h", "hour", "hours", "d", "day", "days"])  # fmt: skip  # noqa: E501
def test_every_unit_is_known(unit: str) -> None:
    assert parse_rate(f"86400/{unit}") == 86400 / Fraction({"s": 1, "m": 60, "h": 3600, "d": 86400}[unit[0]])


@pytest.mark.parametrize(
    "written",
    [0, -1, 0.0, -0.5, math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("Infinity"), Decimal("1e999999999"),
     "0", "-1", "", "x", "1/0s", "0/s", "nan", "inf", "5/parsec", "1/2/3", "1e999999999", "9" * 10_000, "1/", "/s",
     "1_0", "٣"],
)  # fmt: skip
def test_what_is_no_rate_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rate(written)


@pytest.mark.parametrize("written", [True, False, None, [], b"1", 1j])
def test_what_is_of_another_kind_is_refused(written: object) -> None:
    with pytest.raises(TypeError, match="a rate cannot be"):
        parse_rate(written)


def test_a_config_becomes_a_spec() -> None:
    config = RateLimitConfig(requests_per_second=100, burst_size=150, window_size=60)
    assert (config.spec.rate, config.spec.burst, config.spec.windows) == (100, 150, (Window(6000, 60 * SECOND),))
    assert RateLimitConfig(100, 150) == config
    assert hash(RateLimitConfig(100, 150)) == hash(config)


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (RateLimitConfig("1/min", 1, 10), (Window(1, 10 * SECOND),)),  # at least one
        (RateLimitConfig(0.1, 1, 25), (Window(2, 25 * SECOND),)),
        (RateLimitConfig(1, 1, 0.1, 7), (Window(7, SECOND // 10),)),
        (RateLimitConfig(1e12, 1), (Window(60 * 10**12, 60 * SECOND),)),
        (RateLimitConfig(1e-9, 1), (Window(1, 60 * SECOND),)),
        (RateLimitConfig(1, 1, 60, None, ((5, 2),)), (Window(60, 60 * SECOND), Window(5, 2 * SECOND))),
    ],
)
def test_a_window_holds_what_the_rate_gives_unless_said(config: RateLimitConfig, windows: tuple[Window, ...]) -> None:
    assert config.spec.windows == windows


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"requests_per_second": 0}, ValueError, "requests_per_second: .* above 0, not 0"),
        ({"requests_per_second": math.nan}, ValueError, "requests_per_second: .*finite"),
        ({"requests_per_second": True}, TypeError, "requests_per_second: .*True"),
        ({"burst_size": 0}, ValueError, "burst_size must be from 1"),
        ({"burst_size": 1.5}, TypeError, "burst_size must be a whole number"),
        ({"burst_size": "9"}, TypeError, "burst_size .*'9'"),
        ({"window_size": 0}, ValueError, "window_size must be from"),
        ({"window_size": -1}, ValueError, "window_size must be from"),
        ({"window_size": math.inf}, ValueError, "window_size must be a finite"),
        ({"window_size": math.nan}, ValueError, "window_size must be a finite"),
        ({"window_size": True}, TypeError, "window_size must be a number"),
        ({"window_limit": 0}, ValueError, "window_limit must be from 1"),
        ({"window_limit": 1.0}, TypeError, "window_limit must be a whole number"),
        ({"windows": 5}, TypeError, "windows must be pairs"),
        ({"windows": ((1, 0),)}, ValueError, r"windows\[0\]: the size must be from"),
    ],
)
def test_a_bad_config_names_field_and_value(fields: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        RateLimitConfig(**{"requests_per_second": 1, "burst_size": 1, **fields})


moments = st.one_of(st.floats(0, 100), st.floats(0, 2e9), st.floats(-1e6, 4e9), st.integers(0, 2 * 10**9).map(float))


@given(moments)
def test_seconds_are_rounded_to_the_nearest_ns(seconds: float) -> None:
    exact = Fraction(seconds) * SECOND
    assert abs(to_ns(seconds) - exact) <= Fraction(1, 2) + Fraction(1, 10**6)


@given(moments, moments)
def test_the_order_of_times_is_kept(one: float, other: float) -> None:
    assert (to_ns(one) <= to_ns(other)) or one > other
    assert to_ns(one) <= to_ns(math.nextafter(one, math.inf))


@given(moments, st.one_of(st.integers(1, 10), st.integers(1, 10**12)))
@example(4194304.0, 6385366)  # where two floats round to the same ns
def test_a_delay_ends_when_the_clock_shows_it_and_not_before(now: float, wait: int) -> None:
    ready = to_ns(now) + wait
    there = now + delay(now, ready)
    assert to_ns(there) >= ready
    assert to_ns(there - 2 * max(1e-9, math.ulp(there))) < ready


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf, 1e10, -1e10, 10**400])
def test_a_time_beyond_the_clock_is_refused(time: float) -> None:
    with pytest.raises(ValueError, match="a time must be within"):
        to_ns(time)


@pytest.mark.parametrize("time", [True, "1", None, 1j])
def test_a_time_that_is_no_number_is_refused(time: object) -> None:
    with pytest.raises(TypeError, match="a time must be in seconds"):
        to_ns(time)
