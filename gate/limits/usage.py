"""Usage of a service, as the library tells it, and hooks for whom it tells."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of its limits a service uses at one time."""

    requests_per_second: float  # units admitted in the last second, or in the whole window if that is shorter
    tokens: float  # units left in the bucket
    window_used: int  # units that count in the fullest window
    window_limit: int  # of that window
    window_fill: float  # the one by the other; above 1 where the limit was lowered since
    refused: int  # requests refused since the limit was configured
    breaches: int  # times that refusals began after a whole window without any
    last_refusal: float | None  # unix seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


class Hooks(Protocol):
    """Told after each decision, outside of any lock; inherit and override what you need.

    An exception in a hook is logged and does not touch the decision.
    """

    def on_decision(self, service_id: str, allowed: bool, cost: int, retry_after: float | None) -> None:
        """Tell of a decision about a service with a limit."""

    def on_breach(self, service_id: str, retry_after: float) -> None:
        """Tell of the first refusal after a whole window without any."""

    def on_unknown(self, service_id: str, allowed: bool) -> None:
        """Tell of a request for a service without a limit."""
