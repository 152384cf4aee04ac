"""Records of the usage topic, read as far as the console shows them: half a minute of thousands costs milliseconds."""

import re
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from gate.observe.usage import FOREVER_MS
from gate.protocol.policies import LimitSet

T = TypeVar("T", bound=msgspec.Struct)
_NEAR: Final = 0.8  # of a limit
Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # larger ones can't be reckoned with
Part: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
_OF_GROUP: Final = re.compile(r"group\.(.+?)\.(?:rate|window|quota)(?:\.|$)")
_LATE: Final = 5.0  # seconds for which something is undecided; for less it is on its way


class Limit(msgspec.Struct, frozen=True, gc=False):
    """How full one limit is."""

    name: str
    capacity: Whole
    per_second: float
    usage: Part  # 0..1; more where a limit was lowered
    left: Whole | None = None
    renews_at_ms: Whole | None = None


class Lane(msgspec.Struct, frozen=True, gc=False):
    """What waits in one lane."""

    name: str
    weight: float
    backlog: Whole
    tenants: Whole = 0
    eta_seconds: float | None = None


class Total(msgspec.Struct, frozen=True, gc=False):
    """How many requests ended so since the service's state began."""

    lane: str
    verdict: str
    reason: str | None
    pulled: bool
    requests: Whole


class Bound(msgspec.Struct, frozen=True, gc=False):
    """A limit that binds, or refused last."""

    reason: str
    limit: str


class PausedTenant(msgspec.Struct, frozen=True, gc=False):
    """A tenant of which nothing is admitted."""

    tenant: str
    until_ms: Whole | None = None  # None: until resumed


class Stalled(msgspec.Struct, frozen=True, gc=False):
    """A partition that stands."""

    topic: str = ""
    partition: Whole = -1
    offset: Whole = -1
    why: str = ""
    remedy: str = ""


class Record(msgspec.Struct, frozen=True, gc=False):
    """The newest usage of a service, and which gate told it. Times in unix ms."""

    service: str
    at_ms: Whole
    limits: tuple[Limit, ...]
    lanes_read: msgspec.Raw = msgspec.field(name="lanes")  # only the page of one service asks what is in these two
    requests_per_second: float
    offered_per_second: float
    backlog: Whole
    policy: str = ""
    tokens: float | None = None
    totals_read: msgspec.Raw = msgspec.field(name="totals", default=msgspec.Raw(b"[]"))
    eta_seconds: float | None = None
    breach_since_ms: Whole | None = None
    binding: Bound | None = None
    last_refusal: Bound | None = None
    paused_until_ms: Whole | None = None
    blocked_until_ms: Whole | None = None
    paused_tenants: tuple[PausedTenant, ...] = ()
    tenants_paused: Whole = 0
    tenants: Whole = 0
    undecided: Whole | None = None
    undecided_age_seconds: float | None = None
    waiting: tuple[Stalled, ...] = ()  # tuples, and structs without gc: the collector need not go through thousands
    scheduled: Whole = 0
    next_start_ms: Whole | None = None
    next_slot_ms: Whole | None = None
    waiting_since_ms: Whole | None = None
    running: Whole | None = None
    in_flight: Whole | None = None
    shard: Whole | None = None
    owner: str = ""
    commit_seconds: float | None = None  # that a batch of its gate takes
    limit_set: LimitSet | None = None  # over the policy file
    group_limit_set: LimitSet | None = None
    tenants_limited: Whole = 0
    limits_version: Whole = 0
    group_limits_version: Whole = 0

    @property
    def lanes(self) -> list[Lane]:
        """What waits in each lane; nothing where that can't be read."""
        return _read(self.lanes_read, Lane)

    @property
    def totals(self) -> list[Total]:
        """How many requests ended how; nothing where that can't be read."""
        return _read(self.totals_read, Total)

    @property
    def group(self) -> str:
        """The group whose budget it shares, as its limits are called: `group.bank-api.rate`; empty: none."""
        return next((named[1] for limit in self.limits if (named := _OF_GROUP.match(limit.name))), "")

    @property
    def is_calm(self) -> bool:
        """Tell whether nothing of it is held back, or nearly."""
        return not (
            self.backlog
            or self.binding is not None
            or self.breach_since_ms is not None
            or self.paused_until_ms is not None
            or self.blocked_until_ms is not None
            or self.tenants_paused
            or self.waiting
            or self.is_late
            or self.is_near
        )

    @property
    def is_late(self) -> bool:
        """Tell whether something is undecided for longer than it takes to decide."""
        return (self.undecided_age_seconds or 0) > _LATE

    @property
    def is_near(self) -> bool:
        """Tell whether a limit is nearly used."""
        for limit in self.limits:  # noqa: SIM110 - a generator takes twice as long, of thousands a second
            if limit.usage >= _NEAR:
                return True
        return False

    @property
    def drained_ms(self) -> int:
        """When the last that waits is admitted if nothing else comes; FOREVER_MS: nobody can tell."""
        if not self.backlog:
            return self.at_ms
        if self.eta_seconds is None or self.eta_seconds >= FOREVER_MS / 1000:
            return FOREVER_MS
        return self.at_ms + int(self.eta_seconds * 1000 if self.eta_seconds > 0 else 0)

    @property
    def per_second(self) -> float | None:
        """What the tightest limit gives in the long run, calendar quotas aside; None: there is none."""
        return min((limit.per_second for limit in self.limits if limit.renews_at_ms is None), default=None)


def _read(raw: msgspec.Raw, kind: type[T]) -> list[T]:
    try:
        return msgspec.json.decode(raw, type=list[kind])  # type: ignore[valid-type]  # it is known when this runs
    except (msgspec.DecodeError, UnicodeError):
        return []


_DECODER: Final = msgspec.json.Decoder(Record)


def decode(value: bytes) -> Record:
    """Read a record. Raises ValueError where it is none."""
    try:
        return _DECODER.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
