"""Times as people write them on a command line."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_CLOCK: Final = re.compile(r"(?:(?P<day>today|tomorrow)\s+)?(?P<clock>[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)")
_DAYS: Final = {"today": 0, "tomorrow": 1}


def moment(text: str, now: datetime) -> datetime:
    """Read a time: ISO 8601, HH:MM for the next time the local clock shows it, `tomorrow 9:00`. Raises ValueError."""
    try:
        if found := _CLOCK.fullmatch(text.strip()):
            local, shown = now.astimezone(), found["clock"]
            clock = datetime.strptime(shown, "%H:%M:%S" if shown.count(":") == 2 else "%H:%M")  # noqa: DTZ007 - time of day
            naive = local.replace(tzinfo=None, hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
            # by the wall clock, in whichever season that day is
            then = (naive + timedelta(days=_DAYS.get(found["day"], 0))).astimezone()
            if found["day"] is None and then <= local:
                then = (naive + timedelta(days=1)).astimezone()
            return then
        return datetime.fromisoformat(text).astimezone()  # without an offset, local time
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time; give 18:30, tomorrow 9:00 or 2026-01-31T18:30:00Z") from None


def is_moment(_type: object, value: str | None) -> None:
    """Refuse what `moment` can't read, as a validator of a parameter."""
    if value is not None:
        moment(value, datetime.now(UTC))
