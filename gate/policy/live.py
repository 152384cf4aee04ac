"""Live limits over a policy: what operators have set while it runs, as one more layer above the file."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import PydanticCustomError

from gate.errors import GateError
from gate.policy.compiled import (
    GroupPolicy,
    ServicePolicy,
    Tenants,
    compile_service,
    compile_spec,
    ends_at,
    over,
    rule_of,
)
from gate.policy.layers import BLOCKED, Key, Layer, resolve
from gate.policy.live_fields import read_live
from gate.policy.names import read_tenant, stands_for_many
from gate.protocol.policies import LiveLimit, group_of
from gate.text import moment

if TYPE_CHECKING:
    from gate.policy.policy import Policy

EXPLAINED: Final = 200  # tenants of which is told where each field comes from


@dataclass(frozen=True, slots=True)
class LiveService:
    """What is set for a service and its tenants, or for a group. `version` counts the changes."""

    version: int = 0
    limit: LiveLimit | None = None
    tenants: Mapping[str, LiveLimit] = field(default_factory=dict)  # asked by name: there may be a million


def overlay(policy: "Policy", live: Mapping[str, LiveService]) -> "Policy":
    """Return a policy with what is set live over it. What nothing is set for stays as it is, and keeps its version."""
    if not live:
        return policy
    services = {name: _over(policy, name, said) for name, said in live.items() if group_of(name) is None}
    budgets = {name: _over_group(policy, name, said) for name, said in _of_groups(policy, live)}
    versions = {name: _version(policy.version, name, said.version) for name, said in live.items()}
    known: dict[str, ServicePolicy | None] = {**policy._services, **services}  # noqa: SLF001 - one value of both
    whole = replace(policy, live=live, versions=versions, groups={**policy.groups, **budgets}, _services=known)
    for name, service in known.items() if any(budget.blocked_until for budget in budgets.values()) else ():
        known[name] = None if service is None else whole.in_its_group(service)
    return whole


def layers_of(live: LiveService) -> Iterator[Layer]:
    """Yield what is set for a service and the first of its tenants, as layers above the file's."""
    if live.limit is not None:
        yield _layer(live.limit)
    for name in islice(live.tenants, EXPLAINED):
        yield _layer(live.tenants[name], name)


def check(limit: LiveLimit) -> None:
    """Raise GateError that says what is wrong with a limit."""
    if not limit.says:
        raise GateError("no limit is given", hint="give at least one of them, as in --rps 50")
    try:
        read_live(limit.fields)
    except PydanticCustomError as error:
        raise _error(error) from None


def _error(error: PydanticCustomError) -> GateError:
    context = error.context or {}
    return GateError(f"{context.get('text', error)}", hint=context.get("hint") or None)


def check_tenant(tenant: str) -> None:
    """Raise GateError that says why nothing can be set for a tenant of this name, or for those of a glob."""
    try:
        read_tenant(tenant)
    except PydanticCustomError as error:
        raise _error(error) from None


def patterns_of(tenants: Mapping[str, LiveLimit]) -> list[str]:
    """Return those that stand for many: `default` and globs. A table of a million knows them."""
    known: list[str] | None = getattr(tenants, "patterns", None)
    return list(filter(stands_for_many, tenants)) if known is None else known


def _over(policy: "Policy", name: str, live: LiveService) -> ServicePolicy:
    before = policy.effective(name)
    above = [] if live.limit is None else [_layer(live.limit)]
    compiled = compile_service(name, resolve([*policy.layers.stack(name), *above]))
    tenants = compiled.tenants
    if live.tenants:
        rules = {} if tenants is None else {**tenants.rules}
        for pattern in patterns_of(live.tenants):
            rules[pattern] = over(rules.get(pattern, {}), rule_of(live.tenants[pattern]))
        tenants = Tenants.of(rules, live.tenants)
    return replace(compiled, group=before.group, tenants=tenants)


def _of_groups(policy: "Policy", live: Mapping[str, LiveService]) -> Iterator[tuple[str, LiveService]]:
    """Yield what is set for groups, by name; nothing of one that the file has no more."""
    for subject, said in live.items():
        group = group_of(subject)
        if group is not None and group in policy.groups:
            yield group, said


def _over_group(policy: "Policy", name: str, live: LiveService) -> GroupPolicy:
    said = resolve([policy.layers.groups[name], *layers_of(live)])
    return GroupPolicy(name, compile_spec(said), said.get(BLOCKED, 0))


def _layer(limit: LiveLimit, tenant: str = "") -> Layer:
    until = "" if limit.until_ms is None else f" until {moment(limit.until_ms)}"

    def keyed(fields: Mapping[str, Any]) -> dict[Key, Any]:
        return {(tenant, name) if tenant else name: value for name, value in fields.items()}

    return Layer(f"live{until}", (), keyed(read_live(limit.fields)), keyed(limit.fields), ends_at(limit))


def _version(file: str, subject: str, live: int) -> str:
    of = "" if group_of(subject) is None else f"{subject} "
    return hashlib.sha256(f"{file} live {of}{live}".encode()).hexdigest()[:6]
