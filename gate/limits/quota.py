"""Calendar quota: at most so many units in each day, week, month or year of a time zone."""

from collections import Counter as Tally
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, ClassVar, Final
from zoneinfo import ZoneInfo

from gate.limits.checks import MOST, NEVER, check_count, shown
from gate.limits.codec import Reader, Writer, varints

_SECOND: Final = 1_000_000_000
_KEPT: Final = 4_096  # beginnings of periods that a calendar remembers
_LAST_YEAR: Final = 2_200  # times, which are below MOST, end before it


class Per(StrEnum):
    """Periods of the calendar. Weeks begin on Monday, as in ISO 8601."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


_DAYS: Final = {Per.DAY: 1, Per.WEEK: 7, Per.MONTH: 31, Per.YEAR: 366}  # at most


def _number(per: Per, day: date) -> int:
    """Return the number of the period that a day belongs to."""
    match per:
        case Per.DAY:
            return day.toordinal()
        case Per.WEEK:
            return (day.toordinal() - 1) // 7  # the first day of year 1 was a Monday
        case Per.MONTH:
            return day.year * 12 + day.month - 1
        case Per.YEAR:
            return day.year


def _first_day(per: Per, number: int) -> date | None:
    """Return the first day of a period; None: it is beyond all times."""
    match per:
        case Per.DAY | Per.WEEK:
            ordinal = number if per is Per.DAY else 7 * number + 1
            return date.fromordinal(ordinal) if ordinal < date(_LAST_YEAR, 1, 1).toordinal() else None
        case Per.MONTH:
            year, month = divmod(number, 12)
            return date(year, month + 1, 1) if year < _LAST_YEAR else None
        case Per.YEAR:
            return date(number, 1, 1) if number < _LAST_YEAR else None


class Calendar:
    """The periods of one kind in one time zone, as half-open intervals in ns of unix time."""

    def __init__(self, per: Per, timezone: str) -> None:
        self._per = per
        self._zone = ZoneInfo(timezone)
        self._begins: dict[int, int] = {}  # by number
        self._latest = (0, 0)  # the period asked for last

    def period(self, now: int) -> tuple[int, int]:
        """Return the period that `now` lies in."""
        latest = self._latest
        if latest[0] <= now < latest[1]:
            return latest
        number = self._number(now)
        self._latest = latest = (self._begin(number), self._begin(number + 1))
        return latest

    def later(self, time: int, periods: int) -> int:
        """Return `time`, or the beginning of the period so many after that of `time`; 2^62 ns at most."""
        if time >= MOST or not periods:
            return min(time, MOST)
        return min(self._begin(self._number(time) + periods), MOST)

    def _number(self, now: int) -> int:
        number = _number(self._per, datetime.fromtimestamp(now // _SECOND, self._zone).date())
        # a clock that is put back over midnight shows the old date once more, in what is the new day already
        while now >= self._begin(number + 1):
            number += 1
        return number

    def _begin(self, number: int) -> int:
        begin = self._begins.get(number)
        if begin is None:
            day = _first_day(self._per, number)
            begin = NEVER if day is None else self._midnight(day) * _SECOND
            if len(self._begins) >= _KEPT:
                self._begins = {}
            self._begins[number] = begin
        return begin

    def _midnight(self, day: date) -> int:
        """Return the first second that belongs to a day, whatever the clocks are put to at midnight."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)  # the first of two
        second = int(midnight.timestamp())
        if self._date(second) == day and self._date(second - 1) < day:
            return second
        low = int(midnight.replace(fold=1).timestamp())  # clocks are put forward over midnight: between these two
        while second - low > 1:
            middle = (low + second) // 2
            if self._date(middle) < day:
                low = middle
            else:
                second = middle
        return second

    def _date(self, second: int) -> date:
        return datetime.fromtimestamp(second, self._zone).date()


@lru_cache(maxsize=1_024)
def calendar(per: Per, timezone: str) -> Calendar:
    """Return the calendar of a time zone. ValueError: there is no such zone."""
    try:
        return Calendar(per, timezone)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"unknown time zone {shown(timezone)}") from error


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` units of cost in each period of a time zone's calendar."""

    limit: int
    per: Per
    timezone: str = "UTC"
    calendar: Calendar = field(init=False, repr=False, compare=False)
    encoded: bytes = field(init=False, repr=False, compare=False, default=b"")  # as it is kept
    reason: ClassVar[str] = "quota"

    def __post_init__(self) -> None:
        check_count("a quota's limit", self.limit, "units")
        object.__setattr__(self, "calendar", calendar(Per(self.per), self.timezone))
        zone = self.timezone.encode()
        object.__setattr__(self, "encoded", varints(self.limit, list(Per).index(self.per), len(zone)) + zone)

    @classmethod
    def read(cls, source: Reader) -> "Quota":
        """Read what `encoded` says."""
        limit, per = source.numbers(2)
        if per < 0:
            raise ValueError(f"unknown period {per}")
        return cls(limit, list(Per)[per], source.raw().decode())

    @property
    def name(self) -> str:
        """What it is called behind the name of its service, tenant or group."""
        return f"quota.{self.per}"

    @property
    def capacity(self) -> int:
        """The most units that it gives at once."""
        return self.limit

    @property
    def per_second(self) -> float:
        """Units per second in the long run."""
        return self.limit / (_DAYS[self.per] * 86_400)

    def words(self, spell_rate: Callable[[Any], str], spell_duration: Callable[[int], str]) -> str:  # noqa: ARG002
        """Say in a few words what it allows."""
        return f"{self.limit} per {self.per} of {self.timezone}"

    def again(self, time: int, rounds: int) -> int:
        """Return when it lets in `rounds` times its limit more than at `time`: so many periods later."""
        return self.calendar.later(time, rounds)

    def is_off(self, due: int, now: int) -> bool:
        """Tell whether who was due in one period comes in another."""
        return now >= self.calendar.period(due)[1]

    def counter(self) -> "QuotaCounter":
        """Return what counts for it."""
        return QuotaCounter(self)

    def source(self, others: Sequence["Quota"]) -> "Quota | None":
        """Choose the one of others whose count to take over: the same, of the next longer period, or of the longest."""
        for same in (self.timezone, None):
            for other in others:
                if other.per == self.per and same in (other.timezone, None):
                    return other
        by_days = sorted(others, key=lambda other: _DAYS[other.per])
        longer = (other for other in by_days if _DAYS[other.per] > _DAYS[self.per])
        return next(longer, by_days[-1] if by_days else None)


class QuotaCounter:
    """What one quota counts: the units of the newest period in which any came."""

    __slots__ = ("_end", "_quota", "_used")

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._used = 0
        self._end = -NEVER  # of the period

    def _room(self, now: int) -> int:
        return self._quota.limit - (self._used if now < self._end else 0)

    def _add(self, now: int, units: int) -> None:
        if now >= self._end:
            self._used, self._end = 0, self._quota.calendar.period(now)[1]
        self._used += units

    def _add_each(self, times: Sequence[int], cost: int) -> None:
        for time, count in Tally(times).items():
            self._add(time, count * cost)

    def _opens_at(self, now: int, units: int) -> int:
        if units > self._quota.limit:
            return NEVER
        return now if units <= self._room(now) else self._end

    def _counted(self, now: int) -> int:
        return self._used if now < self._end else 0

    def _renews_at(self, now: int) -> int | None:
        return self._end if now < self._end else self._quota.calendar.period(now)[1]

    def _empty(self, now: int) -> bool:
        return not self._counted(now)

    def _empties_at(self) -> int:
        return self._end

    def _since(self, horizon: int) -> int:  # noqa: ARG002 - it knows of no time when they came
        return 0

    def _look_ahead(self) -> None:
        """Count the same way, however many are promised their times."""

    def _follow(self, ahead: "QuotaCounter") -> bool:  # noqa: ARG002 - as of every limit
        return False

    def _adopt(self, other: "QuotaCounter", now: int) -> None:
        units = other._counted(now)  # noqa: SLF001
        if units:
            self._add(now, units)

    def _write(self, out: Writer, last: int) -> None:
        out.encoded(self._quota.encoded)
        out.numbers(self._used, self._end - last if self._used else 0)

    def _read(self, source: Reader, last: int) -> None:
        self._used, end = source.numbers(2)
        if self._used < 0:
            raise ValueError(f"{self._used} units of a quota")
        if self._used:
            self._end = last + end

    def _copy(self) -> "QuotaCounter":
        twin = object.__new__(QuotaCounter)
        twin._quota, twin._used, twin._end = self._quota, self._used, self._end
        return twin
