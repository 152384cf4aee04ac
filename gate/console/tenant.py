"""What there is to say of one tenant: its limits with their origin, and what was decided about it. No I/O, no clock."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gate.admission.model import Verdict
from gate.kafka.recorded_decisions import Recording
from gate.limits import NEVER
from gate.policy import Policy

TOP: Final = 20


@dataclass(frozen=True, slots=True)
class TenantSeen:
    """What was decided about a tenant in the part of a recording that was read. Times are unix ms."""

    since_ms: int
    requests: int
    share: float  # of all requests that came, 0..1
    at_once: int
    waited: int
    rejected: int
    waiting: int
    granted_share: float  # of all that was admitted, 0..1
    oldest_ms: int | None  # since when the oldest waits
    last_ms: int | None  # until when the last one waits, as it was told
    reasons: Sequence[tuple[str, str, int]]  # verdict, reason and limit together, most first
    cut: bool


def tenant_seen(recording: Recording, tenant: str) -> TenantSeen:
    """Return what a recording says of a tenant."""
    own = [one for one in recording.decisions if one.request.tenant == tenant]
    waiting = [one for one in own if one.ended is None]
    granted = [one for one in recording.decisions if one.ended == Verdict.ADMITTED]
    reasons = Counter((one.verdict, one.reason or "", one.limit or "") for one in own if one.reason)
    promised = [one.not_before_ms for one in waiting if one.not_before_ms is not None]
    return TenantSeen(
        since_ms=recording.since_ms,
        requests=len(own),
        share=len(own) / max(1, len(recording.decisions)),
        at_once=sum(one.verdict == Verdict.ADMITTED for one in own),
        waited=sum(one.verdict == Verdict.DELAYED and one.ended == Verdict.ADMITTED for one in own),
        rejected=sum(one.ended == Verdict.REJECTED for one in own),
        waiting=len(waiting),
        granted_share=sum(one.request.tenant == tenant for one in granted) / max(1, len(granted)),
        oldest_ms=min((one.request.at_ms for one in waiting), default=None),
        last_ms=max(promised, default=None),
        reasons=[(verdict, _why(reason, limit), n) for (verdict, reason, limit), n in reasons.most_common(8)],
        cut=recording.cut,
    )


def _why(reason: str, limit: str) -> str:
    return reason if not limit or limit.endswith(f".{reason}") else f"{reason} {limit}"  # not `window payments.window`


@dataclass(frozen=True, slots=True)
class TenantRank:
    """How much one tenant asked for in the part of a recording that was read, and how much of it waits."""

    tenant: str
    offered: int  # requests
    granted: int
    waiting: int
    share: float  # of all requests that came, 0..1


def top_tenants(recording: Recording, most: int = TOP) -> Sequence[TenantRank]:
    """Return the tenants of which most waits, then those that asked for most."""
    offered: Counter[str] = Counter()
    granted: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    for one in recording.decisions:
        tenant = one.request.tenant
        offered[tenant] += 1
        granted[tenant] += one.ended == Verdict.ADMITTED
        waiting[tenant] += one.ended is None
    ranked = sorted(offered, key=lambda tenant: (-waiting[tenant], -offered[tenant], tenant))
    whole = max(1, len(recording.decisions))
    return [TenantRank(one, offered[one], granted[one], waiting[one], offered[one] / whole) for one in ranked[:most]]


def tenant_policy(policy: Policy | None, service: str, tenant: str, explained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits of a tenant as far as they are known, and which field of the policy each comes from."""
    if policy is None:
        rules: Sequence[str] = ("default", tenant)
        limits, blocked = None, False
    else:
        found = policy.effective(service)
        spec = found.tenant(tenant)
        limits = [] if spec is None else list(spec.limits)
        rules = ("default", *found.tenant_globs(tenant), tenant)
        blocked = found.tenant_blocked_until(tenant) > 0
    fields: dict[str, Any] = {}
    for rule in rules:
        head = f"tenants.{rule}."
        fields |= {name.removeprefix(head): origin for name, origin in explained.items() if name.startswith(head)}
    return {"limits": limits, "fields": fields, "blocked": blocked, "never": NEVER}
