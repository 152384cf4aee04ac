"""Values as a policy file would spell them."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from gate.limits import Spec
from gate.units import SECOND

_SPANS: Final = (
    ("d", 86_400 * SECOND),
    ("h", 3600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", SECOND // 1000),
)
_PER: Final = (("s", 1), ("min", 60), ("h", 3600), ("d", 86_400))


def spell_duration(ns: int) -> str:
    """Spell a time span in the largest unit that needs no fraction: 3600 s is "1h", 90 s "90s"."""
    for unit, size in _SPANS:
        if ns % size == 0:
            return f"{ns // size}{unit}"
    return f"{ns // SECOND}.{ns % SECOND:09d}".rstrip("0") + "s"


def spell_rate(rate: Fraction) -> str:
    """Spell a rate in the smallest unit that needs no fraction: 1/6 per second is "10/min"."""
    for unit, seconds in _PER:
        if (rate * seconds).denominator == 1:
            return f"{rate * seconds}/{unit}"
    if 10**6 % rate.denominator == 0:
        return f"{float(rate):g}/s"
    return f"{rate.numerator}/{rate.denominator}s"


def spell_spec(spec: Spec) -> str:
    """Spell a whole limit on one line."""
    return "; ".join(limit.words(spell_rate, spell_duration) for limit in spec.limits) or "unlimited"


def spell_value(value: Any) -> str:
    """Spell a value of the document on one line, as it was written."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {spell_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        items = [f"{{{spell_value(item)}}}" if isinstance(item, Mapping) else spell_value(item) for item in value]
        return f"[{', '.join(items)}]"
    return str(value)
