"""Units of time, in nanoseconds."""

from typing import Final

MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
