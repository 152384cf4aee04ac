"""The values that a policy may hold, read strictly: what is meant must be what is written.

Each reader takes plain YAML data and returns the exact value, or raises PydanticCustomError with a message and a hint.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Final, TypeVar
from zoneinfo import available_timezones

from pydantic import BeforeValidator, PlainValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from gate.limits.quota import Per, calendar
from gate.limits.rates import parse_rate
from gate.policy.errors import did_you_mean, quoted
from gate.units import DURATION_HINT, MAX_DURATION, SECOND, parse_duration

MAX_COUNT: Final = 10**15  # units: as JSON and doubles still hold them exactly
MAX_RATE: Final = 10**12  # units per second
MIN_RATE: Final = 10**9  # seconds per unit: some 30 years
MAX_WEIGHT: Final = 1_000_000

_OTHER_BASE: Final = re.compile(r"0(b[01]+|o[0-7]+|x[0-9a-fA-F]+)")


class Overflow(StrEnum):
    """What becomes of a request that cannot be admitted now: parked, left in its topic, or refused."""

    DELAY = "delay"
    HOLD = "hold"
    REJECT = "reject"


_Choice = TypeVar("_Choice", bound=StrEnum)


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """Make the error that a reader raises."""
    return PydanticCustomError("policy", "{text}", {"text": message, "hint": hint})


def describe(item: ErrorDetails, known: Collection[str]) -> tuple[str, str]:
    """Say in the words of a user what pydantic found, and what to do about it; `known` are the fields of the place."""
    context: Mapping[str, Any] = item.get("ctx", {})
    match item["type"]:
        case "policy":
            return context["text"], context["hint"]
        case "extra_forbidden":
            return "unknown field", did_you_mean(item["loc"][-1], known)
        case "missing":
            return "is missing", ""
        case "dict_type" | "model_type":
            return f"must be a mapping, not {quoted(item['input'])}", ""
        case "tuple_type":
            return f"must be a list, not {quoted(item['input'])}", ""
    return item["msg"][:1].lower() + item["msg"][1:], ""


def errors_of(error: ValidationError) -> list[ErrorDetails]:
    """Return what is wrong in itself, without what could only not be derived from it."""
    return [item for item in error.errors(include_url=False) if item["type"] != "default_factory_not_called"]


def read_count(value: object) -> int:
    """Read a whole number from 1 to MAX_COUNT."""
    return _whole(value, 1, MAX_COUNT)


def is_zero(value: object) -> bool:
    """Tell whether a rate as written is 0, which blocks."""
    return value == "0" or (isinstance(value, int | float) and not isinstance(value, bool) and value == 0)


def read_rate(value: Any) -> Fraction:
    """Read units per second: a number, or text such as "10/min"; 0: nothing is admitted."""
    if is_zero(value):
        return Fraction(0)
    hint = 'write a number per second, or text such as "10/min" or "1/3s"'
    try:
        rate = parse_rate(value)
    except (TypeError, ValueError):
        raise wrong(f"must be a rate above 0, or 0 to block, not {quoted(value)}", hint) from None
    if not Fraction(1, MIN_RATE) <= rate <= MAX_RATE:
        raise wrong(f"must be from 1e-9 to 1e12 per second, not {quoted(value)}", hint)
    return rate


def read_duration(value: object) -> int:
    """Read a time span above 0, in seconds or as text such as "1h30m"; returns ns."""
    try:
        length = parse_duration(value) if isinstance(value, str) else _in_ns(value)
    except ValueError:
        length = None
    if length is None:
        raise wrong(f"must be a length of time, not {quoted(value)}", DURATION_HINT)
    if not 0 < length <= MAX_DURATION:
        raise wrong(f"must be above 0 and at most 100 years, not {quoted(value)}", DURATION_HINT)
    return max(1, round(length))


def _in_ns(value: object) -> Fraction | None:
    seconds = _number(value)
    return None if seconds is None else seconds * SECOND


def read_seconds(value: object) -> float:
    """Read a time span as for `read_duration`; returns seconds."""
    return read_duration(value) / SECOND


def read_weight(value: object) -> Fraction:
    """Read a lane's weight: a number above 0."""
    weight = _number(value)
    if weight is None:
        raise wrong(f"must be a weight, not {quoted(value)}", "write a number above 0, such as 3 or 0.5")
    if weight <= 0:
        raise wrong(f"must be above 0, not {quoted(value)}", "leave the lane out: its requests go to the default lane")
    if not Fraction(1, MAX_WEIGHT) <= weight <= MAX_WEIGHT:
        raise wrong(
            f"must be from 1/{MAX_WEIGHT} to {MAX_WEIGHT}, not {quoted(value)}", "only the ratio of the weights counts"
        )
    return weight


def read_ratio(value: object) -> float:
    """Read a ratio above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise wrong(f"must be a ratio above 0 and at most 1, not {quoted(value)}", "write 0.8 for 80 %")
    return float(value)


def read_flag(value: object) -> bool:
    """Read true or false, and nothing that older YAML took for them."""
    if not isinstance(value, bool):
        raise wrong(f"must be true or false, not {quoted(value)}", _flag_hint(value))
    return value


def read_timezone(value: object) -> str:
    """Read the name of a time zone, as the IANA database spells it."""
    hint = "write a name of the IANA database, such as Europe/Berlin or UTC"
    if not isinstance(value, str):
        raise wrong(f"must be a time zone, not {quoted(value)}", hint)
    try:
        calendar(Per.DAY, value)
    except ValueError:
        raise wrong(f"unknown time zone {quoted(value)}", did_you_mean(value, available_timezones()) or hint) from None
    return value


def read_text(value: object) -> str:
    """Read text that is not empty, of one line and at most 1,000 characters."""
    if not isinstance(value, str):
        raise wrong(
            f"must be text, not {quoted(value)}", f'write "{value}" in quotes' if _number(value) is not None else ""
        )
    if not value or len(value) > 1000 or not value.isprintable() or value != value.strip():
        raise wrong(f"must be 1 to 1000 printable characters without spaces around them, not {quoted(value)}")
    return value


def whole_number(low: int, high: int) -> PlainValidator:
    """Make a reader of whole numbers between two bounds, both included."""
    return PlainValidator(lambda value: _whole(value, low, high))


def one_of(kind: type[_Choice]) -> BeforeValidator:
    """Make a reader of one word of several."""

    def read(value: object) -> _Choice:
        if isinstance(value, str) and value in set(kind):
            return kind(value)
        *others, last = kind
        hint = did_you_mean(value, kind) or f"write {', '.join(others)} or {last}"
        raise wrong(f"must be {', '.join(others)} or {last}, not {quoted(value)}", hint)

    return BeforeValidator(read)


def mapping_of(what: str) -> BeforeValidator:
    """Take a mapping; nothing at all is an empty one. The rest is read by the type behind it."""
    return BeforeValidator(_expect(dict, f"a mapping of {what}"))


def _expect(kind: type, name: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise wrong(f"must be {name}, not {quoted(value)}")
        return value

    return read


def _number(value: object) -> Fraction | None:
    """Return the number as written, 0.1 as a tenth; None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        return Fraction(repr(value)) if math.isfinite(value) else None
    return Fraction(value)


def _whole(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(f"must be a whole number, not {quoted(value)}", _whole_hint(value))
    if not low <= value <= high:
        bounds = f"at least {low}" if value < low else f"at most {high}"
        raise wrong(f"must be {bounds}, not {quoted(value)}")
    return value


def _whole_hint(value: object) -> str:
    """Say what was likely meant by what other readers of YAML take for a number."""
    if isinstance(value, float):
        return f"write {int(value)}" if value.is_integer() else ""
    if not isinstance(value, str) or len(value) > 20:
        return ""
    if _OTHER_BASE.fullmatch(value):
        return f"write {int(value, 0)}"
    digits = value.replace("_", "").replace(",", "").lstrip("0")
    return f"write {digits}" if digits.isdecimal() and digits.isascii() else ""


def _flag_hint(value: object) -> str:
    meant = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
    word = value.lower() if isinstance(value, str) else ""
    word = meant.get(word, word)
    return f"write {word} without quotes" if word in {"true", "false"} else ""


Count = Annotated[int, PlainValidator(read_count)]
Rate = Annotated[Fraction, PlainValidator(read_rate)]
Duration = Annotated[int, PlainValidator(read_duration)]
Seconds = Annotated[float, PlainValidator(read_seconds)]
Weight = Annotated[Fraction, PlainValidator(read_weight)]
Ratio = Annotated[float, PlainValidator(read_ratio)]
Flag = Annotated[bool, PlainValidator(read_flag)]
Text = Annotated[str, PlainValidator(read_text)]
