"""Origins of each effective field of a service."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gate.limits import Spec
from gate.policy.compiled import (
    KEEP_RELEASED,
    MAX_TENANTS,
    NEAR_LIMIT,
    RUNNING_TIMEOUT,
    WINDOW_SIZE,
    ServicePolicy,
    compile_spec,
)
from gate.policy.document import LimitFields
from gate.policy.errors import dotted
from gate.policy.fields import Overflow
from gate.policy.layers import Key, Layer
from gate.policy.source import Node
from gate.units import SECOND

BUILT_IN: Final = "built-in"
DERIVED: Final = "from requests_per_second"

_BUILT_IN: Final[Mapping[str, Any]] = {
    "overflow": Overflow.DELAY.value,
    "max_delay": None,
    "priorities": None,
    "group": None,
    "max_in_flight": None,
    "worker_group": None,
    "shadow": False,
    "match": None,
    "near_limit": NEAR_LIMIT,
    "max_tenants": MAX_TENANTS,
    "keep_released": "1d",
    "running_timeout": "1h",
    "deduplicate": None,
    "extends": None,
}


_MEANT: Final[Mapping[str, Any]] = {"keep_released": KEEP_RELEASED, "running_timeout": RUNNING_TIMEOUT}


@dataclass(frozen=True, slots=True)
class Origin:
    """One effective field: its value as written, what that means (comparable), who decided it, and in which line.

    `source` is "built-in", "defaults", "template NAME", 'glob "PATTERN"', "exact", or says what the value follows from.
    """

    value: Any
    meaning: Any
    source: str
    line: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `gate policy show --json` and `/v1/policy` say of a field."""
        return {"value": self.value, "source": self.source, "line": self.line}


def origins_of(policy: ServicePolicy, decided: Mapping[Key, Layer], root: Node) -> dict[str, Origin]:
    """Return the origin of each field of a service, tenants' fields as `tenants.NAME.FIELD`."""
    own: dict[str, Origin] = {}
    tenants: dict[str, dict[str, Origin]] = {}
    for key, by in decided.items():
        part, name = (own, key) if isinstance(key, str) else (tenants.setdefault(key[0], {}), key[1])
        part[name] = _said(key, by, root)
    origins = dict(_limits(policy.spec, own))
    for name, fallback in _BUILT_IN.items():
        meaning = _MEANT.get(name, fallback)
        origins[name] = own.get(name) or Origin(fallback, meaning, BUILT_IN)
    for tenant in tenants:
        assert policy.tenants is not None
        rules = dict.fromkeys((*policy.tenants.steps_of(tenant), tenant))  # its own is not among them if it is live
        said = {name: origin for rule in rules for name, origin in tenants.get(rule, {}).items()}
        spec = compile_spec({name: origin.meaning for name, origin in said.items()})
        for name, origin in _limits(spec, said):
            if name in said or origin.value is not None:
                origins[dotted(("tenants", tenant, name))] = origin
    return origins


def origins_of_limits(spec: Spec, decided: Mapping[Key, Layer], root: Node) -> dict[str, Origin]:
    """Return the origins of limits that inherit nothing: those of a group."""
    said = {key: _said(key, by, root) for key, by in decided.items() if isinstance(key, str)}
    return dict(_limits(spec, said))


def _limits(spec: Spec, said: Mapping[str, Origin]) -> Iterator[tuple[str, Origin]]:
    """Yield the fields of a limit: what was said, and what follows where nothing was."""
    nothing = Origin(None, None, BUILT_IN)
    yield "requests_per_second", said.get("requests_per_second", nothing)
    burst = said.get("burst_size", nothing)
    if burst.value is None and spec.rate is not None:
        burst = Origin(spec.burst, spec.burst, DERIVED)
    yield "burst_size", burst
    size = said.get("window_size", Origin(WINDOW_SIZE // SECOND, WINDOW_SIZE, BUILT_IN))
    limit = said.get("window_limit", nothing)
    if limit.value is None and size.value is not None and spec.rate is not None:
        derived = compile_spec({"requests_per_second": spec.rate, "window_size": size.meaning}).windows[0].limit
        limit = Origin(derived, derived, DERIVED)
    if limit.value is None and size.source == BUILT_IN:
        size = nothing
    yield "window_size", size
    yield "window_limit", limit
    told = {"requests_per_second", "burst_size", "window_size", "window_limit"}
    yield from ((name, said.get(name, nothing)) for name in LimitFields.model_fields if name not in told)


def _said(key: Key, by: Layer, root: Node) -> Origin:
    if by.written is not None:
        return Origin(by.written[key], by.fields[key], by.source)
    loc = by.place(key)
    return Origin(root.at(loc), by.fields[key], by.source, root.locate(loc, key=True).line)
