"""Values that go into an engine and come out of it: frozen, times in ns of unix time."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from gate.protocol.policies import LimitSet
from gate.units import Ns

MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
FOREVER: Final = 2**62  # a time, in ns, that fits into a record
# The end of a pause without one: so late that nobody sees it, and so early that limiters can be charged beyond it.
UNTIL_RESUMED: Final = (FOREVER - 2**59) // MS * MS

EXPEDITED: Final = "(expedited)"  # lane of what operators let go first; no policy can name one like that


def whole_ms(time: int) -> int:
    """Round a time in ns up to whole milliseconds."""
    return -(-time // MS) * MS


class Verdict(StrEnum):
    """What happens to a request now."""

    ADMITTED = "admitted"
    DELAYED = "delayed"  # goes to the delayed topic and is pulled from there when its turn comes
    REJECTED = "rejected"
    HELD = "held"  # overflow `hold`: stays in the request topic, the shell stops reading here


class Reason(StrEnum):
    """Why a request was not plainly admitted."""

    RATE = "rate"
    WINDOW = "window"
    QUOTA = "quota"
    TENANT = "tenant"
    GROUP = "group"
    IN_FLIGHT = "in-flight"
    RUNNING = "running"
    PAUSED = "paused"
    BLOCKED = "blocked"  # its limit is 0
    LANE = "lane"  # others wait in front
    NEVER = "never"  # the cost is above what a limit can ever give
    DEADLINE = "deadline"
    MAX_DELAY = "max-delay"
    MALFORMED = "malformed"  # this and the next are the shell's: an engine never sees such a request
    UNFORWARDABLE = "unforwardable"  # the broker takes no such record
    DUPLICATE = "duplicate"  # of a request that was not rejected; the shell's too
    SCHEDULED = "scheduled"  # its producer wants it not before a time
    CANCELLED = "cancelled"  # by an operator's command


class Run(msgspec.Struct, frozen=True):  # a dataclass takes four times as long to make
    """`count` requests, numbered from `first` in the batch, that are alike. Runs are in order and do not overlap."""

    first: int
    count: int
    lane: str = ""  # unknown or empty: the default lane
    tenant: str = ""
    cost: int = 1  # of each request, >= 1
    deadline: Ns | None = None  # the last moment at which an admission is of use
    start: Ns | None = None  # not before; None, or a time that is past: at once


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of `count` fresh requests, numbered from `first` in the batch.

    `not_before` holds one time per request, in ns, rounded up to whole milliseconds: when it would be admitted if
    nothing else came. It is None where the request is admitted now or can never be.
    """

    first: int
    count: int
    verdict: Verdict
    reason: Reason | None = None
    limit: str | None = None  # names the limit that bound; may hold a tenant, so it is no metric label
    not_before: tuple[Ns, ...] | None = None


@dataclass(frozen=True, slots=True)
class Pull:
    """`count` consecutive offsets of a partition of the delayed topic whose requests leave it now."""

    partition: int
    offset: int
    count: int
    verdict: Verdict  # ADMITTED or REJECTED
    reason: Reason | None = None
    limit: str | None = None
    not_before: tuple[Ns, ...] | None = None  # of those rejected as their time came, as in a decision


class Started(NamedTuple):
    """`requests` that are admitted and count as running from now on.

    `first` numbers them in the batch, or is their offset in a partition of the delayed topic.
    """

    partition: int | None  # of the delayed topic; None: they came with the batch
    first: int
    requests: int
    tenant: str | None  # that they count for; None: for none


@dataclass(frozen=True, slots=True)
class Step:
    """The answer to a batch: decisions cover every fresh request exactly once, in order.

    The ids of what has `started` must be told by `Engine.name_running` before the next step.
    """

    decisions: tuple[Decision, ...]
    pulls: tuple[Pull, ...]
    started: tuple[Started, ...] = ()


class EventKind(StrEnum):
    """Kinds of breach events; the alert's type is `gate.breach.<kind>`, or `gate.near_limit`."""

    OPENED = "opened"
    ONGOING = "ongoing"
    RESOLVED = "resolved"
    NEAR_LIMIT = "near_limit"


@dataclass(frozen=True, slots=True)
class Event:
    """A breach of a service's limits, or a limit that comes near: the data of an alert."""

    kind: EventKind
    service: str
    limit: str  # the limit that bound when the breach opened
    reason: Reason
    at: Ns
    since: Ns  # the start of the breach, for near_limit the crossing
    refused: int  # fresh requests refused (delayed, rejected, held) since the start of the breach
    offered_per_second: float
    backlog: int  # requests that wait
    eta_seconds: float | None  # until the backlog is gone if nothing else comes; None: not known (paused for ever)
    usage: float  # 0..1, of the fullest limit
    policy: str  # version


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """How full one limit is."""

    name: str  # "<service>.rate", "<service>.window.60s", "group.<name>.rate", ...
    capacity: int  # units: the burst of a bucket, the limit of a window
    per_second: float  # units per second that it gives in the long run
    usage: float  # 0..1
    left: int | None = None  # units until it renews; None: it gives all the time
    renews_at: Ns | None = None


@dataclass(frozen=True, slots=True)
class LaneUsage:
    """What waits in one lane."""

    name: str
    weight: float
    backlog: int  # requests that wait: parked, or held
    backlog_units: int
    tenants: int  # that have something parked
    # Until the last of these is admitted if nothing else comes; of none, until one that came now would be.
    eta_seconds: float | None  # None: not known


@dataclass(frozen=True, slots=True)
class Total:
    """How many requests ended so since the service's state began."""

    lane: str
    verdict: Verdict
    reason: Reason | None
    pulled: bool  # False: decided on arrival; True: decided when it left the delayed topic
    requests: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last request that could not go at once."""

    at: Ns
    reason: Reason
    limit: str


@dataclass(frozen=True, slots=True)
class Binding:
    """The limit that the next request waits for."""

    reason: Reason
    limit: str


@dataclass(frozen=True, slots=True)
class PausedTenant:
    """A tenant of which nothing is admitted."""

    tenant: str
    until: Ns | None  # None: until somebody resumes it


@dataclass(frozen=True, slots=True)
class Usage:
    """One service at one moment, for `gate usage` and the metrics."""

    service: str
    at: Ns
    policy: str  # version
    limits: tuple[LimitUsage, ...]
    requests_per_second: float  # admitted, over the last ten seconds or so
    units_per_second: float
    offered_per_second: float  # fresh requests, whatever became of them
    tokens: float | None  # units in the service's bucket; None: it has none
    window_fill: float  # 0..1, of the fullest window
    lanes: tuple[LaneUsage, ...]
    totals: tuple[Total, ...]
    breach_since: Ns | None  # None: no breach is open
    last_refusal: Refusal | None
    paused_until: Ns | None
    in_flight: int | None  # newest known lag of the workers plus what was admitted since; None: not watched
    tenants: int  # remembered: with something parked or a limiter that is not idle
    unknown_lanes: int  # requests that named a lane that the policy does not have
    undecided: int | None = None  # requests in the request topic that are not decided; None: not known
    undecided_age_seconds: float | None = None  # of the oldest of them; 0: there are none
    waiting: tuple[Mapping[str, Any], ...] = ()  # its partitions that stand, see `gate.shard.stalled_partitions`
    shared_tenants: int = 0  # limits that tenants beyond the bound share now
    shared_tenant_requests: int = 0  # requests of such tenants since the service's state began
    binding: Binding | None = None  # what binds what waits now, or refused last while a breach is open; None: nothing
    paused_tenants: tuple[PausedTenant, ...] = ()  # the first ones by name
    tenants_paused: int = 0  # all of them
    held: int = 0  # requests that wait in the request topic (overflow `hold`): part of the backlog
    gone: int = 0  # requests that waited, and that somebody deleted from the delayed topic
    scheduled: int = 0  # requests that wait for the time their producer wants: no part of the backlog
    remembered: int | None = None  # ids, where each may come only once; None: not asked for
    forgotten: int = 0  # ids that had to make room before their time, since its owner took over
    next_start: Ns | None = None  # the time of the first of them
    running: int | None = None  # requests that are admitted and not told to be done; None: nothing limits them
    # ns: when the next request may go, of those that wait, else one of cost 1 that came now; None: nobody can tell
    next_slot: int | None = None
    blocked_until: Ns | None = None  # its limit is 0; None: it is not
    waiting_since: Ns | None = None  # when the oldest came that is parked; None: nothing is, or it is not known
    limit_set: LimitSet | None = None  # over the policy file; None: nothing is
    group_limit_set: LimitSet | None = None  # the same of its group
    tenants_limited: int = 0  # tenants, and globs of them, for which something is set over the policy file
    limits_version: int = 0  # counts the changes of what is set for it and its tenants
    group_limits_version: int = 0

    @property
    def backlog(self) -> int:
        """Requests that wait, of all lanes."""
        return sum(lane.backlog for lane in self.lanes)

    @property
    def eta_seconds(self) -> float | None:
        """Until the last request that waits is admitted if nothing else comes, 0 if none does; None: not known."""
        etas = [lane.eta_seconds for lane in self.lanes if lane.backlog]
        if any(eta is None for eta in etas):
            return None
        return max((eta for eta in etas if eta is not None), default=0.0)

    def totals_by_verdict(self) -> Mapping[Verdict, int]:
        """Fresh requests by what was decided on their arrival."""
        sums = dict.fromkeys(Verdict, 0)
        for total in self.totals:
            if not total.pulled:
                sums[total.verdict] += total.requests
        return sums
