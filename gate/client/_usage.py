"""The gate's usage records, as far as a pacer needs them: the wire format, and what it says to one pipeline.

A record of the usage topic has the service's name as its key and a JSON object as its value. The fields that are read
here stay as they are within a major version; what else a record holds is passed over.
"""

from math import inf
from typing import Annotated, Final, TypeAlias

import msgspec

from gate.client._throttle import Report

_ADMITTED: Final = "admitted"
_Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # larger ones can't be reckoned with


class Limit(msgspec.Struct, frozen=True):
    """One limit: the units per second that it gives in the long run; for a calendar quota, what is left of it."""

    name: str
    per_second: float
    left: int | None = None


class Lane(msgspec.Struct, frozen=True):
    """What waits in one lane. `eta_seconds`: until a request that comes now is admitted; null: not known."""

    name: str
    weight: Annotated[float, msgspec.Meta(gt=0)]
    backlog: _Whole
    eta_seconds: float | None


class Total(msgspec.Struct, frozen=True):
    """How many requests ended so, since counting began.

    Not pulled: decided when they came. Pulled: decided about again when they left the backlog.
    """

    lane: str
    verdict: str
    pulled: bool
    requests: _Whole


class Usage(msgspec.Struct, frozen=True):
    """One service at one moment. `at_ms` is unix ms by the broker's clock; rates are per second."""

    service: str
    at_ms: _Whole
    requests_per_second: float
    limits: tuple[Limit, ...]
    lanes: tuple[Lane, ...]
    totals: tuple[Total, ...]
    paused_until_ms: int | None = None
    blocked_until_ms: int | None = None
    in_flight: int | None = None
    running: int | None = None

    def lane(self, name: str | None) -> Lane | None:
        """Return the lane that takes requests of this priority: itself, else `default`, else the lightest."""
        by_name = {lane.name: lane for lane in self.lanes}
        lightest = min(self.lanes, key=lambda lane: (lane.weight, lane.name), default=None)
        return by_name.get(name or "") or by_name.get("default") or lightest

    def report(self, priority: str | None = None, cost: int = 1) -> Report:
        """Return what this means for requests of a lane that cost so many units each."""
        lane = self.lane(priority)
        if lane is None:
            return Report(self.at_ms / 1000, 0.0, 0, inf, 0, 0, paused=False)
        wait = inf if lane.eta_seconds is None else lane.eta_seconds
        by_workers = self.in_flight is not None or self.running is not None
        if by_workers and lane.backlog:  # how fast workers are is in no plan: by Little's law
            backlog = sum(other.backlog for other in self.lanes)
            wait = max(wait, backlog / self.requests_per_second if self.requests_per_second > 0 else inf)
        competing = sum(other.weight for other in self.lanes if other.backlog and other is not lane)
        units = min((limit.per_second for limit in self.limits if limit.left is None), default=inf)
        totals = [total for total in self.totals if total.lane == lane.name]
        return Report(
            at=self.at_ms / 1000,
            wait=wait,
            backlog=lane.backlog,
            rate=units / cost * lane.weight / (lane.weight + competing),
            arrived=sum(total.requests for total in totals if not total.pulled),
            admitted=sum(total.requests for total in totals if total.verdict == _ADMITTED),
            paused=self.paused_until_ms is not None or self.blocked_until_ms is not None,
        )


_DECODER: Final = msgspec.json.Decoder(Usage)


def decode(value: bytes) -> Usage:
    """Read the value of a record. Raises ValueError where it is none."""
    try:
        return _DECODER.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a usage record: {error}") from error
