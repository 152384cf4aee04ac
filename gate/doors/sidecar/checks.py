"""Checks of a sidecar: what both of its doors ask, decided by the limiter and by what the policy says beside limits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gate.doors.sidecar.matching import Matcher, Target
from gate.limits.keys import Source
from gate.limits.rate_limits import RateLimits
from gate.limits.result import RateLimitResult
from gate.limits.spec import Spec
from gate.policy import Policy, ServicePolicy

_MOST_UNLISTED: Final = 10_000  # names without an entry that are told apart: callers make them up
_OTHER: Final = "(other)"
_BUCKETS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class PolicyLimits(Source):
    """The limits that a policy gives, which may be replaced."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self._unlisted: set[str] = set()

    def take(self, policy: Policy) -> None:
        """Go over to another policy; the limiter must be told with `limits_changed`."""
        self.policy = policy

    def known(self, service: str) -> ServicePolicy | None:
        """Return what holds for a service; None where neither an entry nor a default does."""
        policy = self.policy
        if service not in policy.layers.exact and service not in self._unlisted:
            if len(self._unlisted) >= _MOST_UNLISTED:
                return policy.others()
            self._unlisted.add(service)
        return policy.service(service)

    def service(self, service: str) -> Spec | None:
        """Return the limits of a service; None: no policy applies."""
        known = self.known(service)
        return None if known is None else _of_calls(known.spec)

    def tenant(self, service: str, tenant: str) -> Spec | None:
        """Return the limits of a tenant; None: it has none of its own."""
        known = self.known(service)
        return None if known is None else _of_calls(known.tenant(tenant))

    def group(self, service: str) -> tuple[str, Spec] | None:
        """Return the budget that a service shares with others."""
        known = self.known(service)
        group = None if known is None or known.group is None else self.policy.group(known.group)
        return None if group is None else (group.name, _of_calls(group.spec) or group.spec)


def _of_calls(spec: Spec | None) -> Spec | None:
    """Return limits without that of what runs: nobody tells a sidecar when a call is done."""
    return spec if spec is None or spec.running is None else replace(spec, running=None)


class Numbers:
    """What a sidecar counts, for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.checks = Counter(
            "gate_sidecar_checks",
            "Requests decided, by door (rls, http), service and decision: allowed, refused, shadow (over a limit that"
            " only reports) or unmatched.",
            ("door", "service", "decision"),
            registry=registry,
        )
        self.seconds = Histogram(
            "gate_sidecar_check_seconds", "Seconds to decide.", ("door",), buckets=_BUCKETS, registry=registry
        )
        self.refused_policies = Counter(
            "gate_sidecar_refused_policies", "Policy files that could not be used; the one before counts.",
            registry=registry,
        )  # fmt: skip
        self._registry = registry

    def watch_owner(self, away: Callable[[], float]) -> None:
        """Tell with each scrape for how many seconds owners of shared limits have not answered."""
        Gauge(
            "gate_sidecar_owner_away_seconds",
            "Seconds for which a gate that was asked for its limits has not answered; below 2 all is well.",
            registry=self._registry,
        ).set_function(away)


class Checks:
    """Decides about requests, several at once all or none."""

    def __init__(self, limiter: RateLimits, source: PolicyLimits, numbers: Numbers) -> None:
        self._limiter = limiter
        self._source = source
        self._numbers = numbers
        self.take(source.policy)

    def take(self, policy: Policy) -> None:
        """Go over to another policy."""
        self.matcher = Matcher(policy)
        self.unmatched = policy.settings.unmatched
        self._listed = frozenset(policy.services)

    async def decide(self, door: str, asked: Sequence[tuple[Target, int]]) -> list[RateLimitResult]:
        """Charge all of what is asked, or none of it; a cost of 0 only looks."""
        start = time.perf_counter()
        costs: dict[Target, int] = {}
        for target, cost in asked:
            costs[target] = costs.get(target, 0) + cost
        found: dict[Target, RateLimitResult] = {}
        for target in [target for target, cost in costs.items() if not cost or self._shadow(target)]:
            found[target] = await self._limiter.peek(target.service, costs[target] or 1, tenant=target.tenant)
        bound = [(target, cost) for target, cost in costs.items() if target not in found]
        charged = await self._limiter.hit_all([(target.service, target.tenant, cost) for target, cost in bound])
        found |= zip([target for target, _ in bound], charged, strict=True)
        if all(result.allowed for result in charged):
            for target, cost in costs.items():
                if cost and self._shadow(target):
                    found[target] = await self._limiter.hit(target.service, cost, tenant=target.tenant)
        results = {target: self._answer(door, target, result) for target, result in found.items()}
        self._numbers.seconds.labels(door).observe(time.perf_counter() - start)
        return [results[target] for target, _ in asked]

    def not_matched(self, door: str) -> None:
        """Count a descriptor that no service matches."""
        self._numbers.checks.labels(door, _OTHER, "unmatched").inc()

    def _shadow(self, target: Target) -> bool:
        known = self._source.known(target.service)
        return known is not None and known.shadow

    def _answer(self, door: str, target: Target, result: RateLimitResult) -> RateLimitResult:
        decision = "allowed" if result.allowed else "shadow" if self._shadow(target) else "refused"
        service = target.service if target.service in self._listed else _OTHER
        self._numbers.checks.labels(door, service, decision).inc()
        return replace(result, allowed=True, retry_after=None) if decision == "shadow" else result
