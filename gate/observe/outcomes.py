"""Outcomes that a service's requests can have, so that the counter of each exists before its first event."""

from collections.abc import Iterator

from gate.admission.model import Reason, Verdict
from gate.policy import Overflow, ServicePolicy

_WAITS = {Overflow.DELAY: Verdict.DELAYED, Overflow.HOLD: Verdict.HELD, Overflow.REJECT: Verdict.REJECTED}

Outcome = tuple[str, str, str]  # lane, verdict, reason


def outcomes(policy: ServicePolicy) -> Iterator[Outcome]:
    """Yield lane, verdict and reason of what can be decided under a policy."""
    limits = list(_limits(policy))
    waits = Verdict.ADMITTED if policy.shadow else _WAITS[policy.overflow]
    for lane in policy.lanes:
        yield lane, Verdict.ADMITTED, ""
        yield lane, Verdict.DELAYED, Reason.SCHEDULED
        for reason in limits:
            yield lane, waits, reason
        if policy.spec.ceiling is not None or policy.group is not None or policy.tenants is not None:
            yield lane, Verdict.ADMITTED if policy.shadow else Verdict.REJECTED, Reason.NEVER
        if not policy.shadow:
            yield lane, Verdict.REJECTED, Reason.DEADLINE
            if policy.max_delay is not None:
                yield lane, Verdict.REJECTED, Reason.MAX_DELAY
    if policy.deduplicate is not None and not policy.shadow:
        yield "", Verdict.REJECTED, Reason.DUPLICATE
    for reason in (Reason.MALFORMED, Reason.UNFORWARDABLE):  # no engine sees them, so that no lane is known
        yield "", Verdict.REJECTED, reason


def _limits(policy: ServicePolicy) -> Iterator[Reason]:
    if policy.tenants is not None:
        yield Reason.TENANT
    if policy.group is not None:
        yield Reason.GROUP
    if policy.in_flight is not None:
        yield Reason(policy.in_flight.reason)
    if policy.counts_running:
        yield Reason.RUNNING
    yield from dict.fromkeys(Reason(limit.reason) for limit in policy.spec.limits)
    yield Reason.PAUSED
    yield Reason.LANE
