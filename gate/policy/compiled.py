"""Policies as the engine takes them: resolved, with every default filled in, frozen."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Self

import msgspec
from pydantic import BaseModel

from gate.limits import InFlight, Per, Quota, Running, Spec, Window
from gate.limits.spec import MOST
from gate.policy.document import DeduplicateFields
from gate.policy.fields import Overflow
from gate.policy.layers import BLOCKED, ENDLESS, Key
from gate.policy.live_fields import read_live
from gate.policy.names import DEFAULT, Glob, globs_of, is_glob, stands_for_many
from gate.protocol.policies import LiveLimit
from gate.units import MS, SECOND

WINDOW_SIZE: Final = 60 * SECOND  # ns; where nothing else is said, as in RateLimitConfig
NEAR_LIMIT: Final = 0.8
KEEP_RELEASED: Final = 86_400 * SECOND  # ns
RUNNING_TIMEOUT: Final = 3_600 * SECOND  # ns
MAX_TENANTS: Final = 100_000  # per service: some 100 MB where all of them wait
ONE_LANE: Final[Mapping[str, Fraction]] = MappingProxyType({DEFAULT: Fraction(1)})


@dataclass(frozen=True, slots=True)
class Tenants:
    """The limits of a service's tenants: `default` < globs < exact name < what is set live, field by field."""

    rules: Mapping[str, Mapping[str, Any]]
    _globs: Sequence[Glob] = field(repr=False, compare=False)
    live: Mapping[str, LiveLimit] = field(default_factory=dict, repr=False)  # of many: asked by name alone
    # One entry per combination of rules in use, not per tenant: tenants come and go by the hundred thousand.
    _specs: dict[tuple[str, ...], Spec | None] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, rules: Mapping[str, Mapping[str, Any]], live: Mapping[str, LiveLimit] | None = None) -> Self:
        """Take what is said per tenant, in the order of the file, and what is set live."""
        return cls(rules, globs_of(rules), live or {})

    def spec(self, tenant: str) -> Spec | None:
        """Return a tenant's limits; None where it has none."""
        steps, live = self.steps(tenant), self.own(tenant)
        if live is None:
            return self.spec_of(steps)
        spec = compile_spec(over(self._merged(steps), rule_of(live)))  # kept by nobody: each may have its own
        return spec if is_limited(spec) else None

    def spec_of(self, names: tuple[str, ...]) -> Spec | None:
        """Return what rules come to together, the weakest first; those that are gone say nothing."""
        if names not in self._specs:
            spec = compile_spec(self._merged(names))
            self._specs[names] = spec if is_limited(spec) else None
        return self._specs[names]

    def _merged(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {key: value for name in names for key, value in self.rules.get(name, {}).items()}

    def own(self, tenant: str) -> LiveLimit | None:
        """Return what is set live for this very tenant; what is for many is among the rules."""
        found = self.live.get(tenant)
        return None if found is None or stands_for_many(tenant) else found

    def blocked_until(self, tenant: str) -> int:
        """Return until when a tenant gets nothing, ns; 0: it is not blocked, `ENDLESS`: nobody has said."""
        live = self.own(tenant)
        rule = {} if live is None else rule_of(live)
        return self.blocked_by(self.steps(tenant), rule)

    def blocked_by(self, names: tuple[str, ...], last: Mapping[str, Any] | None = None) -> int:
        """Return until when rules block together, the weakest first; who gives a rate blocks no more."""
        for rule in (last or {}, *(self.rules.get(name, {}) for name in reversed(names))):
            if BLOCKED in rule:
                until: int = rule[BLOCKED]
                return until
            if "requests_per_second" in rule:
                return 0
        return 0

    def steps(self, tenant: str) -> tuple[str, ...]:
        """Return the rules that apply to a tenant, whatever its name holds, the weakest first."""
        names = [DEFAULT] if DEFAULT in self.rules else []
        names += self.globs(tenant)
        if self.names(tenant):
            names.append(tenant)
        return tuple(names)

    def names(self, tenant: str) -> bool:
        """Tell whether a rule of the file is for this very tenant."""
        return tenant in self.rules and tenant != DEFAULT and not is_glob(tenant)

    def globs(self, tenant: str) -> tuple[str, ...]:
        """Return the globs that match a tenant, the weakest first."""
        return tuple([glob.pattern for glob in self._globs if glob.matches(tenant)])

    def steps_of(self, rule: str) -> tuple[str, ...]:
        """Return the rules that a rule stands on, itself last; a glob as if no other one matched."""
        if not is_glob(rule):
            return self.steps(rule)
        return (DEFAULT, rule) if DEFAULT in self.rules else (rule,)


@dataclass(frozen=True, slots=True)
class Deduplicate:
    """Of requests with one id the first one passes, for `time` ns; at most so many ids are kept."""

    time: int
    at_most: int = 1_000_000
    by: str = "id"  # the header gate-id; "key": the record's key; else the name of a header


@dataclass(frozen=True, slots=True)
class Match:
    """Requests of Envoy that belong to a service: those with this domain and a descriptor of just these keys."""

    domain: str
    descriptors: Mapping[str, str]  # values, or globs of them, by key
    tenant: str | None = None  # the key whose value is the tenant


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """What holds for one service. Times in ns; None: no such limit."""

    name: str
    spec: Spec
    overflow: Overflow = Overflow.DELAY
    max_delay: int | None = None
    lanes: Mapping[str, Fraction] = field(default_factory=lambda: ONE_LANE)  # weights, the heaviest lane first
    default_lane: str = DEFAULT
    group: str | None = None
    max_in_flight: int | None = None
    worker_group: str | None = None
    shadow: bool = False
    near_limit: float = NEAR_LIMIT
    max_tenants: int = MAX_TENANTS
    keep_released: int | None = KEEP_RELEASED
    tenants: Tenants | None = None
    deduplicate: Deduplicate | None = field(default=None, metadata={"later": True})
    running_timeout: int | None = field(default=RUNNING_TIMEOUT, metadata={"later": True})
    match: tuple[Match, ...] = field(default=(), metadata={"later": True})
    blocked_until: int = field(default=0, metadata={"later": True})  # `ENDLESS`: nobody has said; 0: it is not blocked

    @property
    def tenants_run(self) -> bool:
        """Tell whether tenants are limited by how many of their requests run."""
        tenants = self.tenants
        if tenants is None:
            return False
        return any(rule.get("max_running") for rule in tenants.rules.values()) or some_run(tenants.live)

    @property
    def counts_running(self) -> bool:
        """Tell whether it limits how many requests run, of the service or of tenants; its group may as well."""
        return self.spec.running is not None or self.tenants_run

    def without_running(self) -> Self:
        """Return the same without limits of what runs."""
        tenants = self.tenants
        if tenants is not None and self.tenants_run:
            rules = {
                name: {k: v for k, v in rule.items() if k != "max_running"} for name, rule in tenants.rules.items()
            }
            tenants = Tenants.of(rules, _WithoutRunning(tenants.live))
        return replace(self, spec=replace(self.spec, running=None), tenants=tenants)

    @property
    def in_flight(self) -> InFlight | None:
        """The limit of what its workers have not finished; None: there is none."""
        return None if self.max_in_flight is None else InFlight(self.max_in_flight, self.worker_group or "")

    def tenant(self, tenant: str) -> Spec | None:
        """Return the limits of one tenant; None: it has none of its own. A request without a tenant is tenant ""."""
        return None if self.tenants is None else self.tenants.spec(tenant)

    def tenant_blocked_until(self, tenant: str) -> int:
        """Return until when one tenant gets nothing, ns; 0: it is not blocked."""
        return 0 if self.tenants is None else self.tenants.blocked_until(tenant)

    def unnamed_blocked_until(self, globs: tuple[str, ...]) -> int:
        """Return the same of a tenant that just these globs match."""
        return 0 if self.tenants is None else self.tenants.blocked_by((DEFAULT, *globs))

    def named_tenants(self) -> Iterator[str]:
        """Yield the tenants that are named, not only matched: they have limits of their own whoever else comes."""
        if self.tenants is not None:
            yield from filter(self.tenants.names, self.tenants.rules)
            others = (name for name in self.tenants.live if not self.tenants.names(name))
            yield from (name for name in others if not stands_for_many(name))

    def names_tenant(self, tenant: str) -> bool:
        """Tell whether a tenant is among those named."""
        return self.tenants is not None and (
            self.tenants.names(tenant) or (tenant in self.tenants.live and not stands_for_many(tenant))
        )

    def tenant_globs(self, tenant: str) -> tuple[str, ...]:
        """Return the globs that say something about a tenant; without its own name, they decide with `default`."""
        return () if self.tenants is None else self.tenants.globs(tenant)

    def unnamed_tenant(self, globs: tuple[str, ...]) -> Spec | None:
        """Return the limits of a tenant that just these globs match; None: it has none."""
        if self.tenants is None:
            return None
        return self.tenants.spec_of((DEFAULT, *globs) if DEFAULT in self.tenants.rules else globs)


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """A budget that several services share."""

    name: str
    spec: Spec
    blocked_until: int = field(default=0, metadata={"later": True})  # as that of a service


def is_limited(spec: Spec) -> bool:
    """Tell whether a spec limits anything at all."""
    return bool(spec.limits) or spec.running is not None


def compile_spec(said: Mapping[Any, Any]) -> Spec:
    """Fill in what follows from what was said about a limit.

    A window of `window_size` (60 s unless said) holds `window_limit`, else what the rate gives in it; `windows` are
    further ones, `quotas` are of the calendar. Without a rate there is no bucket, and no window that was not given its
    limit.
    """
    rate: Fraction | None = said.get("requests_per_second") or None  # 0 blocks, and limits nothing else
    size: int | None = said.get("window_size", WINDOW_SIZE)
    limits: dict[int, int] = {}
    for further in said.get("windows") or ():
        limits[further.size] = min(further.limit, limits.get(further.size, further.limit))
    if size is not None:
        limit = said.get("window_limit")
        if limit is None and rate is not None:
            limit = min(max(1, rate.numerator * size // (rate.denominator * SECOND)), MOST)
        if limit is not None:
            limits[size] = min(limit, limits.get(size, limit))
    burst = said.get("burst_size") or (1 if rate is None else math.ceil(rate))
    windows = tuple(Window(limits[size], size) for size in sorted(limits))
    most = said.get("max_running")
    running = None if most is None else Running(most)
    return Spec(rate=rate, burst=burst, windows=windows, quotas=_quotas(said.get("quotas") or ()), running=running)


def _quotas(said: Sequence[Any]) -> tuple[Quota, ...]:
    """Return the quotas, shorter periods first; of several for the same periods, the lowest."""
    limits: dict[tuple[Per, str], int] = {}
    for quota in said:
        key = (quota.per, quota.timezone)
        limits[key] = min(quota.limit, limits.get(key, quota.limit))
    order = list(Per)
    keys = sorted(limits, key=lambda key: (order.index(key[0]), key[1]))
    return tuple(Quota(limits[per, zone], per, zone) for per, zone in keys)


def compile_service(name: str, said: Mapping[Key, Any]) -> ServicePolicy:
    """Compile the merged fields of a service."""
    rules: dict[str, dict[str, Any]] = {}
    for key, value in said.items():
        if not isinstance(key, str):
            rules.setdefault(key[0], {})[key[1]] = value
    lanes = said.get("priorities") or ONE_LANE
    worker_group = said.get("worker_group")
    return ServicePolicy(
        name=name,
        spec=compile_spec(said),
        overflow=said.get("overflow", Overflow.DELAY),
        max_delay=said.get("max_delay"),
        lanes=MappingProxyType(dict(sorted(lanes.items(), key=lambda lane: (-lane[1], lane[0])))),
        default_lane=_default_lane(lanes),
        group=said.get("group"),
        max_in_flight=said.get("max_in_flight") if worker_group else None,
        worker_group=worker_group,
        shadow=said.get("shadow", False),
        match=tuple([Match(one.domain, one.descriptors, one.tenant) for one in said.get("match") or ()]),
        near_limit=said.get("near_limit", NEAR_LIMIT),
        max_tenants=said.get("max_tenants", MAX_TENANTS),
        keep_released=said.get("keep_released", KEEP_RELEASED),
        tenants=Tenants.of(rules) if rules else None,
        running_timeout=said.get("running_timeout", RUNNING_TIMEOUT),
        deduplicate=_deduplicate(said.get("deduplicate")),
        blocked_until=said.get(BLOCKED, 0),
    )


def rule_of(live: LiveLimit) -> dict[str, Any]:
    """Return what is set live as a rule's fields. A rate of 0 leaves the one beneath as it was, and blocks."""
    rule = read_live(live.fields)
    if rule.get("requests_per_second") == 0:
        del rule["requests_per_second"]
        rule[BLOCKED] = ends_at(live)
    return rule


def over(rule: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule with what is set live over it; who is given a rate is blocked no more."""
    unblocked = {name: value for name, value in rule.items() if name != BLOCKED or "requests_per_second" not in live}
    return {**unblocked, **live}


def some_run(live: Mapping[str, LiveLimit]) -> bool:
    """Tell whether a limit of what runs is set live for a tenant. A table of a million knows that."""
    known: bool | None = getattr(live, "some_run", None)
    return any(limit.max_running for limit in live.values()) if known is None else known


class _WithoutRunning(Mapping[str, LiveLimit]):
    """What is set live, without limits of what runs."""

    some_run = False

    def __init__(self, live: Mapping[str, LiveLimit]) -> None:
        self._live = live

    def __getitem__(self, tenant: str) -> LiveLimit:
        return msgspec.structs.replace(self._live[tenant], max_running=None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._live)

    def __len__(self) -> int:
        return len(self._live)


def ends_at(live: LiveLimit) -> int:
    """Return when it ends by itself, ns."""
    return ENDLESS if live.until_ms is None else live.until_ms * MS


def _deduplicate(said: DeduplicateFields | None) -> Deduplicate | None:
    return None if said is None else Deduplicate(said.for_, said.at_most, said.by)


def _default_lane(lanes: Mapping[str, Fraction]) -> str:
    """Choose the lane of requests that name none, or one that is not there: `default`, else the lightest.

    The lightest, because a missing or misspelt header must not be a way to the front.
    """
    return DEFAULT if DEFAULT in lanes else min(lanes, key=lambda lane: (lanes[lane], lane))


def canonical(value: object) -> str:
    """Write compiled values as JSON that is equal where they are; the order of keys does not count."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: object) -> object:
    match value:
        case Fraction():
            return str(value)
        case Mapping():
            return dict(value)
        case Tenants():
            return value.rules
        case BaseModel():
            return value.model_dump()
    assert is_dataclass(value)
    # the rest follows from these; what came later than others counts where it says something, so versions stay
    parts = [part for part in fields(value) if part.init]
    said = [(part, getattr(value, part.name)) for part in parts]
    return [value for part, value in said if "later" not in part.metadata or value != part.default]
