"""What is told to who has not said who he is: numbers, and no names of tenants."""

from collections.abc import Mapping
from typing import Any, Final

_OF_PRODUCERS: Final = frozenset({"producer_id", "error", "result", "result_base64", "result_bytes"})
_OF_COMMANDERS: Final = frozenset({"who", "because", "why"})


def usage_without_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service's usage, as `gate.observe.usage.to_json` makes it, without tenants' names; counts stay."""
    service, told = record["service"], {**record, "paused_tenants": []}
    for name in ("limit_set", "group_limit_set"):
        if (limit := told.get(name)) is not None:
            told[name] = {**limit, "who": "", "why": ""}
    for name in ("binding", "last_refusal"):
        if (found := told.get(name)) is not None:
            told[name] = {**found, "limit": _hidden(found["limit"], service)}
    return told


def policy_without_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service's policy, field by field, without those of tenants."""
    return {name: origin for name, origin in fields.items() if not name.startswith("tenants.")}


def request_without_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a request stands without what its producer, its worker and its tenant are called or have said."""
    told = {name: one for name, one in found.items() if name not in _OF_PRODUCERS}
    if (limit := found.get("limit")) is not None:
        told["limit"] = _hidden(limit, found["service"])
    return told


def answer_without_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer to a command without who gave it, and what he has said."""
    return {name: one for name, one in found.items() if name not in _OF_COMMANDERS}


def _hidden(limit: str | None, service: str) -> str | None:
    return f"{service}.tenant" if limit is not None and limit.startswith(f"{service}.tenant.") else limit
