"""The policy in force: the file's, with what usage tells to be set live over it. No I/O, no clock."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gate.console.anonymous import policy_without_names
from gate.console.records import Record
from gate.errors import GateError
from gate.policy import Policy
from gate.policy.live import LiveService, check
from gate.protocol.policies import GROUP, LimitSet, LiveLimit, Published

_NOTHING: Final[Mapping[str, LiveLimit]] = {}


def in_force(
    policy: Policy, records: Iterable[Record], now_ms: int, tenants: Mapping[str, Mapping[str, LiveLimit]] | None = None
) -> Policy:
    """Return a file's policy with what is set for these services and their groups over it.

    `tenants` are the limits that are set for tenants, by service, as far as they are to be heeded.
    """
    live: dict[str, LiveService] = {}
    for record in records:
        service = record.service
        if record.limits_version:
            of_tenants = {} if tenants is None else tenants.get(service, _NOTHING)
            standing = {name: limit for name, limit in of_tenants.items() if _holds(limit, now_ms)}
            live[service] = LiveService(record.limits_version, _limit(record.limit_set, now_ms), standing)
        if record.group_limits_version and (group := policy.effective(service).group) is not None:
            live[f"{GROUP}{group}"] = LiveService(record.group_limits_version, _limit(record.group_limit_set, now_ms))
    return policy.overlaid(live)


def explained(policy: Policy | None, service: str, *, names: bool) -> dict[str, Any] | None:
    """Return each field of a service with its origin; without `names` none of tenants. None: nothing is known."""
    if policy is None:
        return None
    fields = {name: origin.as_json() for name, origin in policy.explain(service).items()}
    return fields if names else policy_without_names(fields)


def limit_set(told: Published | None, now_ms: int) -> LimitSet | None:
    """Return what is set for a tenant, as long as it holds."""
    if told is None or told.limit is None or not _holds(told.limit, now_ms):
        return None
    return LimitSet(told.limit.fields, told.limit.until_ms, told.who, told.reason)


def _limit(told: LimitSet | None, now_ms: int) -> LiveLimit | None:
    """Return a limit as it was set; None where none is, its time is over, or no gate has written that."""
    if told is None or not told.holds(now_ms):
        return None
    try:
        limit = told.as_limit()
        check(limit)
    except (ValueError, GateError):
        return None
    return limit


def _holds(limit: LiveLimit, now_ms: int) -> bool:
    return limit.until_ms is None or limit.until_ms > now_ms
