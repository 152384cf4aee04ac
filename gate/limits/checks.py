"""Arguments that a caller may get wrong, and how they are refused: before anything is touched, by name and value."""

from typing import Final

NEVER: Final = 2**127  # a time that does not come
MOST: Final = 2**62  # bound of limits, sizes and times: they are kept in 64-bit cells
_SHOWN: Final = 80  # characters


def check_cost(cost: object) -> None:
    """Raise TypeError or ValueError unless `cost` is a whole number of units above 0."""
    if type(cost) is not int:  # a bool is an int by inheritance only
        raise TypeError(f"cost must be a whole number of units, not {shown(cost)} ({type(cost).__name__})")
    if cost < 1:
        raise ValueError(f"cost must be at least 1 unit, not {shown(cost)}")


def check_spelling(service_id: object, name: str = "service_id") -> None:
    """Raise TypeError or ValueError unless `service_id`, or what `name` says, is text that a snapshot can hold."""
    if not isinstance(service_id, str):
        raise TypeError(f"{name} must be text, not {shown(service_id)} ({type(service_id).__name__})")
    try:
        service_id.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that UTF-8 can spell, not {shown(service_id)}") from None


def check_count(name: str, value: object, unit: str) -> None:
    """Raise TypeError or ValueError unless `value` is a whole number from 1 to 2^62."""
    if type(value) is not int:
        raise TypeError(f"{name} must be a whole number of {unit}, not {shown(value)} ({type(value).__name__})")
    if not 1 <= value <= MOST:
        raise ValueError(f"{name} must be from 1 to 2^62 {unit}, not {shown(value)}")


def check_amount(name: str, value: object, unit: str) -> None:
    """Raise TypeError or ValueError unless `value` is a whole number from 0 on, however large."""
    if type(value) is not int:
        raise TypeError(f"{name} must be a whole number of {unit}, not {shown(value)} ({type(value).__name__})")
    if value < 0:
        raise ValueError(f"{name} must be at least 0 {unit}, not {shown(value)}")


def bad_time(now: object) -> TypeError | ValueError:
    """Return the error for a time that cannot be kept."""
    if type(now) is not int:
        return TypeError(f"now must be a time in whole ns, not {shown(now)} ({type(now).__name__})")
    return ValueError(f"now must be a time in ns within 2^62 of 0, not {shown(now)}")


def shown(value: object) -> str:
    """Return `value` as code, cut short; also one that has no text, as an int of more digits than Python prints."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever it is, the message must be told
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
