"""Types of options that many commands have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from gate.units import MAX_DURATION, SECOND, parse_duration

if TYPE_CHECKING:
    Duration = float
else:

    class Duration(float):
        """Seconds, by a name of their own in --help."""


def told_seconds(seconds: float | None) -> str | None:
    """Return a default as --help tells it, so that it can be written as it stands: `30s`, `1d`; nothing for None."""
    if seconds is None:
        return None
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def read_seconds(_type: Any, tokens: Sequence[Token]) -> float:
    """Read a length of time as in a policy file. Raises ValueError."""
    length = parse_duration(tokens[0].value)
    if length > MAX_DURATION:
        raise ValueError(f"{tokens[0].value!r} is longer than 100 years")
    return length / SECOND


Flag = Annotated[bool, Parameter(negative="", show_default=False)]  # a flag that is not given is off
Seconds = Annotated[Duration, Parameter(converter=read_seconds, validator=Number(gt=0), show_default=told_seconds)]
