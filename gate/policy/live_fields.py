"""Fields of limits that are set live, spelt as one word or line each."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic_core import PydanticCustomError

from gate.limits import Per
from gate.policy.document import QuotaFields, WindowFields
from gate.policy.errors import quoted
from gate.policy.fields import read_count, read_duration, read_rate, read_timezone, wrong
from gate.protocol.policies import MAX_LISTED, MAX_TEXT

_NONE: Final = "none"
_QUOTA: Final = re.compile(r"([0-9]{1,19})/(\w+)(?: (\S+))?")
_WINDOW: Final = re.compile(r"([0-9]{1,19})/(\S+)")
_WINDOW_HINT: Final = 'write as in "100/60s", several with commas between; "none": no window but that of window_size'
_HINT: Final = 'write as in "5000/day" or "100000/month Europe/Berlin", several with commas between; "none": no quota'


def read_quotas(value: object) -> tuple[QuotaFields, ...]:
    """Read quotas: LIMIT/PERIOD, with a time zone unless it is UTC."""
    if value == _NONE:
        return ()
    return tuple(_quota(one.strip()) for one in str(value).split(","))


def _quota(text: str) -> QuotaFields:
    found = _QUOTA.fullmatch(text)
    if found is None or found[2] not in set(Per):
        raise wrong(f"must be a limit for each {', '.join(Per)}, not {quoted(text)}", _HINT)
    limit, zone = read_count(int(found[1])), read_timezone(found[3] or "UTC")
    return QuotaFields.model_construct({"limit", "per", "timezone"}, limit=limit, per=Per(found[2]), timezone=zone)


def read_windows(value: object) -> tuple[WindowFields, ...]:
    """Read windows: LIMIT/SIZE."""
    if value == _NONE:
        return ()
    return tuple(_window(one.strip()) for one in str(value).split(","))


def _window(text: str) -> WindowFields:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise wrong(f"must be a limit and a length of time, not {quoted(text)}", _WINDOW_HINT)
    limit, size = read_count(int(found[1])), read_duration(found[2])
    return WindowFields.model_construct({"limit", "size"}, limit=limit, size=size)


_LISTS: Final = frozenset({"quotas", "windows"})
_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "requests_per_second": read_rate,
    "burst_size": read_count,
    "window_size": read_duration,
    "window_limit": read_count,
    "max_running": read_count,
    "quotas": read_quotas,
    "windows": read_windows,
}


def read_live(fields: Mapping[str, str | int]) -> dict[str, Any]:
    """Return what fields mean, as a policy file has them. Raises PydanticCustomError."""
    return {name: _read(name, value) for name, value in fields.items()}


def _read(name: str, value: str | int) -> Any:
    try:
        most = MAX_LISTED if name in _LISTS else MAX_TEXT
        if len(str(value)) > most:
            raise wrong(f"must have at most {most} characters")
        return _READERS[name](value)
    except PydanticCustomError as error:
        said = error.context or {}
        raise wrong(f"{name}: {said.get('text', error)}", said.get("hint") or "") from None
