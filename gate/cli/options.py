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


def read_seconds(_type: Any, tokens: Sequence[Token]) -> float:
    """Read a length of time as in a policy file. Raises ValueError."""
    length = parse_duration(tokens[0].value)
    if length > MAX_DURATION:
        raise ValueError(f"{tokens[0].value!r} is longer than 100 years")
    return length / SECOND


Flag = Annotated[bool, Parameter(negative="")]
Seconds = Annotated[Duration, Parameter(converter=read_seconds, validator=Number(gt=0))]
