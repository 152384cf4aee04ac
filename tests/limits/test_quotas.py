"""Calendar quotas: periods by tables and by a calendar on the wall, and what of a quota is kept, carried over, told."""

from datetime import date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from gate.limits import NEVER, Limiter, Per, Quota, Spec, StateError, Window
from gate.limits.quota import calendar
from gate.limits.spec import MOST
from tests.limits.oracle import period

SECOND = 10**9
HOUR = 3600 * SECOND
ODD = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Chatham", "Australia/Lord_Howe", "America/St_Johns"]


def at(text: str, zone: str = "Europe/Berlin") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * SECOND


def shown(ns: int, zone: str) -> str:
    return datetime.fromtimestamp(ns // SECOND, ZoneInfo(zone)).isoformat(timespec="minutes")


PERIODS = [
    # spring and autumn: a day of 23, and one of 25 hours
    (Per.DAY, "Europe/Berlin", "2026-03-29T03:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00", 23),
    (Per.DAY, "Europe/Berlin", "2026-10-25T02:30", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00", 25),
    (Per.MONTH, "Europe/Berlin", "2026-03-31T23:59", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00", 31 * 24 - 1),
    # half an hour of summer time, and offsets of quarters of an hour
    (Per.DAY, "Australia/Lord_Howe", "2026-10-04T12:00", "2026-10-04T00:00+10:30", "2026-10-05T00:00+11:00", 23.5),
    (Per.DAY, "Asia/Kathmandu", "2026-01-01T00:00", "2026-01-01T00:00+05:45", "2026-01-02T00:00+05:45", 24),
    (Per.DAY, "Pacific/Chatham", "2026-04-05T03:00", "2026-04-05T00:00+13:45", "2026-04-06T00:00+12:45", 25),
    # leap years, and the ends of months
    (Per.MONTH, "UTC", "2028-02-29T23:59", "2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00", 29 * 24),
    (Per.MONTH, "UTC", "2026-02-28T23:59", "2026-02-01T00:00+00:00", "2026-03-01T00:00+00:00", 28 * 24),
    (Per.MONTH, "UTC", "2026-12-31T23:59", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00", 31 * 24),
    (Per.YEAR, "UTC", "2028-12-31T23:59", "2028-01-01T00:00+00:00", "2029-01-01T00:00+00:00", 366 * 24),
    (Per.YEAR, "America/St_Johns", "2026-01-01T00:00", "2026-01-01T00:00-03:30", "2027-01-01T00:00-03:30", 365 * 24),
    # weeks begin on Monday, also over the turn of the year and of summer time
    (Per.WEEK, "UTC", "2026-01-01T12:00", "2025-12-29T00:00+00:00", "2026-01-05T00:00+00:00", 168),
    (Per.WEEK, "Europe/Berlin", "2026-03-29T23:59", "2026-03-23T00:00+01:00", "2026-03-30T00:00+02:00", 167),
    (Per.WEEK, "Europe/Berlin", "2026-10-26T00:00", "2026-10-26T00:00+01:00", "2026-11-02T00:00+01:00", 168),
    # midnight does not exist, exists twice, or the whole day is left out
    (Per.DAY, "America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00", 23),
    (Per.DAY, "America/Toronto", "1919-03-31T12:00", "1919-03-31T00:30-04:00", "1919-04-01T00:00-04:00", 23.5),
    (Per.DAY, "America/Havana", "2025-11-02T12:00", "2025-11-02T00:00-04:00", "2025-11-03T00:00-05:00", 25),
    (Per.DAY, "Pacific/Apia", "2011-12-29T12:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00", 24),
    (Per.DAY, "Pacific/Apia", "2011-12-31T00:00", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00", 24),
]


@pytest.mark.parametrize(("per", "zone", "now", "begin", "end", "hours"), PERIODS)
def test_a_period_is_that_of_the_calendar(per: Per, zone: str, now: str, begin: str, end: str, hours: float) -> None:
    first, last = calendar(per, zone).period(at(now, zone))
    assert (shown(first, zone), shown(last, zone), (last - first) / HOUR) == (begin, end, hours)
    for moment in (first, last - 1):
        assert calendar(per, zone).period(moment) == (first, last)
    assert calendar(per, zone).period(last)[0] == last
    assert calendar(per, zone).period(first - 1)[1] == first


@given(
    moment=st.integers(365 * 24 * HOUR, 130 * 365 * 24 * HOUR),
    per=st.sampled_from(Per), zone=st.sampled_from(ODD), periods=st.integers(0, 500),
)  # fmt: skip
@example(moment=MOST, per=Per.YEAR, zone="UTC", periods=500)
@example(moment=at("2099-12-31T00:00"), per=Per.YEAR, zone="Europe/Berlin", periods=20)
@example(moment=at("2026-10-25T03:00") - 1, per=Per.DAY, zone="Europe/Berlin", periods=1)
def test_periods_are_those_of_a_calendar_on_the_wall(moment: int, per: Per, zone: str, periods: int) -> None:
    quota = Quota(1, per, zone)
    first, last = quota.calendar.period(moment)
    assert first <= moment < last
    assert period(quota, first) == period(quota, moment) == period(quota, last - 1)
    assert period(quota, first - 1) != period(quota, moment) != period(quota, last)
    later = moment
    for _ in range(min(periods, 20)):
        later = min(quota.calendar.period(later)[1], MOST)
    assert quota.again(moment, min(periods, 20)) == later
    assert later <= quota.again(moment, periods) <= MOST


def spec(*quotas: Quota, rate: int | None = None, burst: int = 1, windows: tuple[Window, ...] = ()) -> Spec:
    return Spec(None if rate is None else Fraction(rate), burst, windows, quotas)


DAILY = Quota(10, Per.DAY, "Europe/Berlin")
NOON = at("2026-03-28T12:00")


def test_a_quota_is_given_whole_at_the_begin_of_its_period() -> None:
    limiter = Limiter(spec(DAILY), NOON)
    assert (limiter.take(NOON, 4, 3), limiter.fit(NOON, 9, 1), limiter.ready_at(NOON, 1)) == (3, 1, NOON)
    midnight = at("2026-03-29T00:00")
    assert limiter.ready_at(NOON, 2) == midnight
    assert limiter.binding(NOON, 2) == DAILY
    assert limiter.fit(midnight - 1, 1, 2) == 0
    assert limiter.fit(midnight, 20, 1) == 10
    assert limiter.ready_at(NOON, 11) == NEVER


def test_whichever_limit_binds_later_counts() -> None:
    minute = Window(5, 60 * SECOND)
    limiter = Limiter(spec(DAILY, rate=2, burst=8, windows=(minute,)), NOON)
    names, now = [], NOON
    for _ in range(3):
        while limiter.try_take(now) is None:
            pass
        binding, ready = limiter.binding(now), limiter.ready_at(now)
        assert binding is not None
        names.append((binding.name, (ready - now) // SECOND))
        now = ready
    assert names == [("window", 60), ("quota.day", 12 * 3600 - 60), ("window", 60)]


def test_a_quota_tells_what_is_left_and_when_it_renews() -> None:
    limiter = Limiter(spec(DAILY, Quota(100, Per.MONTH, "Europe/Berlin"), rate=5, burst=20), NOON)
    limiter.take(NOON, 7)
    bucket, day, month = limiter.fills(NOON)
    assert (bucket.left, bucket.renews_at) == (None, None)
    assert (day.left, day.share, day.renews_at) == (3, 0.7, at("2026-03-29T00:00"))
    assert (month.left, month.share, month.renews_at) == (93, 0.07, at("2026-04-01T00:00"))
    assert [fill.left for fill in limiter.fills(at("2026-03-29T01:00"))] == [None, 10, 93]


def test_state_is_kept_and_an_older_program_refuses_it() -> None:
    limits = spec(DAILY, Quota(100, Per.YEAR, "UTC"), rate=3, burst=9, windows=(Window(8, SECOND), Window(50, HOUR)))
    limiter = Limiter(limits, NOON)
    limiter.take(NOON, 6)
    for read in (limits, None):
        twin = Limiter.load(read, limiter.dump())
        assert twin.spec == limits
        assert twin.dump() == limiter.dump()
        assert twin.fit(NOON + SECOND, 20) == limiter.copy().fit(NOON + SECOND, 20)
    without = Limiter(Spec(limits.rate, limits.burst, limits.windows), NOON)
    without.take(NOON, 6)
    # all that an older program knows of is written as ever; it stops at what is left behind it
    assert limiter.dump()[1:].startswith(without.dump()[1:-4])
    assert Limiter.load(without.spec, without.dump()).dump() == without.dump()
    with pytest.raises(StateError):
        Limiter.load(limits, limiter.dump()[:-1])


CHANGES = [
    (Quota(25, Per.DAY, "Europe/Berlin"), 15),  # a higher limit gives the difference
    (Quota(4, Per.DAY, "Europe/Berlin"), 0),  # a lower one nothing until it renews
    (Quota(25, Per.DAY, "UTC"), 15),  # another zone's day may have had all of it
    (Quota(25, Per.WEEK, "Europe/Berlin"), 15),  # so many at least
    (Quota(25, Per.MONTH, "UTC"), 15),
]


@pytest.mark.parametrize(("quota", "left"), CHANGES)
def test_a_change_mints_nothing(quota: Quota, left: int) -> None:
    limiter = Limiter(spec(DAILY), NOON)
    limiter.take(NOON, 10)
    kept = Limiter.load(spec(quota), limiter.dump())
    limiter.reconfigure(spec(quota), NOON)
    assert limiter.fit(NOON, 100) == kept.fit(NOON, 100) == left
    limiter.reconfigure(spec(), NOON)
    assert limiter.fit(NOON, 100) == 100
    limiter.reconfigure(spec(DAILY), NOON)
    assert limiter.fit(NOON, 100) == 10  # what nobody counted is not known


def test_who_shared_a_quota_inherits_all_of_it() -> None:
    shared, own = Limiter(spec(DAILY), NOON), Limiter(spec(Quota(12, Per.DAY, "Europe/Berlin")), NOON)
    shared.take(NOON, 7)
    own.inherit(shared, NOON)
    assert own.fit(NOON, 20) == 5


def test_it_is_idle_when_its_period_is_over() -> None:
    limiter = Limiter(spec(DAILY), NOON)
    assert limiter.idle(NOON)
    limiter.take(NOON, 1)
    end = at("2026-03-29T00:00")
    assert (limiter.idle(end - 1), limiter.idle_at(), limiter.idle(end)) == (False, end, True)


def test_days_that_follow_each_other_are_given_each() -> None:
    limiter = Limiter(spec(Quota(3, Per.DAY, "Europe/Berlin")), NOON)
    days: list[date] = []
    while len(days) < 30:
        ready = limiter.ready_at(limiter.last)
        limiter.charge(ready, 1)
        days.append(datetime.fromtimestamp(ready // SECOND, ZoneInfo("Europe/Berlin")).date())
    assert days == [date(2026, 3, 28) + timedelta(number // 3) for number in range(30)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quota(0, Per.DAY), "a quota's limit must be from 1"),
        (lambda: Quota(1, Per.DAY, "Europe/Berln"), "unknown time zone 'Europe/Berln'"),
        (lambda: Quota(1, Per.DAY, "../../etc/passwd"), "unknown time zone"),
        (lambda: Quota(1, "hour"), "'hour' is not a valid Per"),
    ],
)
def test_what_is_no_quota_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
