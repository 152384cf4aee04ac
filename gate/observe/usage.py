"""Usage as JSON: the records of the usage topic, `/v1/usage` and `gate usage --json`.

Times are unix ms: nanoseconds do not fit into the numbers of most JSON readers.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gate.admission.model import MS, Usage
from gate.limits import NEVER

FOREVER_MS: Final = 2**53 - 1  # the largest integer that every JSON reader keeps; stands for NEVER
TIMES: Final = {
    "at": "at_ms",
    "breach_since": "breach_since_ms",
    "paused_until": "paused_until_ms",
    "next_start": "next_start_ms",
    "next_slot": "next_slot_ms",
    "blocked_until": "blocked_until_ms",
    "waiting_since": "waiting_since_ms",
}


def to_json(usage: Usage) -> dict[str, Any]:
    """Return the usage as a JSON object, with the sums `backlog` and `eta_seconds` added."""
    record: dict[str, Any] = msgspec.to_builtins(usage)
    for name, name_ms in TIMES.items():
        record[name_ms] = _to_ms(record.pop(name))
    for limit in record["limits"]:
        left, renews_at = limit.pop("left"), limit.pop("renews_at")
        if left is not None:
            limit |= {"left": left, "renews_at_ms": _to_ms(renews_at)}
    if record["last_refusal"] is not None:
        record["last_refusal"]["at_ms"] = _to_ms(record["last_refusal"].pop("at"))
    for paused in record["paused_tenants"]:
        paused["until_ms"] = _to_ms(paused.pop("until"))
    return record | {"backlog": usage.backlog, "eta_seconds": usage.eta_seconds}


def from_json(record: dict[str, Any]) -> Usage:
    """Return the usage that `to_json` made a record of. Raises ValueError for anything else."""
    try:
        fields = {name: value for name, value in record.items() if name not in TIMES.values()}
        fields |= {name: _to_ns(record.get(name_ms)) for name, name_ms in TIMES.items()}
        if refusal := fields.get("last_refusal"):
            fields["last_refusal"] = {"reason": refusal["reason"], "limit": refusal["limit"]} | {
                "at": _to_ns(refusal["at_ms"])
            }
        fields["limits"] = [limit | {"renews_at": _to_ns(limit.get("renews_at_ms"))} for limit in record["limits"]]
        fields["paused_tenants"] = [
            {"tenant": paused["tenant"], "until": _to_ns(paused["until_ms"])}
            for paused in record.get("paused_tenants", ())
        ]
        return msgspec.convert(fields, Usage)
    except (msgspec.ValidationError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a usage record: {error}") from error


def encode(shown: Mapping[str, Any]) -> bytes:
    """Return the value of a record in the usage topic, of what `to_json` shows and whatever goes with it."""
    return msgspec.json.encode(shown)


def decode(value: bytes) -> Usage:
    """Read a record's value. Raises ValueError where it is none."""
    try:
        return from_json(json.loads(value))
    except RecursionError as error:
        raise ValueError(f"not a usage record: {error}") from None


def _to_ms(time: int | None) -> int | None:
    return time if time is None else min(time // MS, FOREVER_MS)


def _to_ns(time: int | None) -> int | None:
    if time is None:
        return None
    return NEVER if time >= FOREVER_MS else time * MS
