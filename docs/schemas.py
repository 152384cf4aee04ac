"""Schemas that the models write: `docs/reference/asyncapi.json` of all topics, `docs/reference/openapi.json` of `/v1`.

`python docs/schemas.py` writes both anew; a test holds that they are as the code says, and that what flows fits.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from gate.admission.model import Event, Usage
from gate.kafka.whereabouts import Standing
from gate.observe.history import Block
from gate.observe.usage import TIMES
from gate.protocol import alert_types, answers, control, feedback, policies
from gate.protocol.topics import PER_SERVICE, Templates

REFERENCE: Final = Path(__file__).parent / "reference"
_MS: Final = {"type": "integer", "description": "unix ms; 2^53-1 stands for never"}
_MAYBE_MS: Final = {"anyOf": [_MS, {"type": "null"}]}
_NUMBER: Final = {"anyOf": [{"type": "number"}, {"type": "null"}]}
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_MORE_OF_USAGE: Final = {  # beside what the engine knows
    "backlog": _COUNT, "eta_seconds": _NUMBER, "undecided": {"anyOf": [_COUNT, {"type": "null"}]},
    "undecided_age_seconds": _NUMBER, "waiting": {"type": "array", "items": {"type": "object"}},
    "shard": _COUNT, "generation": _COUNT, "owner": _TEXT, "commit_seconds": {"type": "number"},
}  # fmt: skip
_OF_GATES: Final = {  # what alerts about a gate itself hold
    "service": _TEXT, "reason": _TEXT, "since": {"type": "string", "format": "date-time"}, "policy_file": _TEXT,
    "policy": _TEXT, "gate": _TEXT, "shard": _COUNT, "failures": _COUNT, "host": _TEXT, "topic": _TEXT,
    "partition": _COUNT, "offset": _COUNT, "remedy": _TEXT, "let_go": _COUNT, "refused": _COUNT,
}  # fmt: skip
_BREACHES: Final = {alert_types.OPENED, alert_types.ONGOING, alert_types.RESOLVED, alert_types.NEAR_LIMIT}


def _schemas(*kinds: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the schemas of models, and those that they refer to."""
    found, parts = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return [dict(one) for one in found], dict(parts)


def usage_schema(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a usage record: the engine's usage, with times as they are written."""
    _, found = _schemas(Usage)
    schema = found.pop("Usage")
    fields = schema["properties"]
    for name, name_ms in TIMES.items():
        fields[name_ms] = _MAYBE_MS if fields.pop(name).get("anyOf") else _MS
    for part, name, name_ms in (("Refusal", "at", "at_ms"), ("PausedTenant", "until", "until_ms")):
        found[part]["properties"][name_ms] = _MAYBE_MS
        found[part]["properties"].pop(name)
        found[part]["required"] = [name_ms if one == name else one for one in found[part]["required"]]
    limit = found["LimitUsage"]["properties"]
    limit["renews_at_ms"] = _MAYBE_MS
    limit.pop("renews_at")
    schema["required"] = [TIMES.get(name, name) for name in schema["required"]]
    schema["properties"] = fields | _MORE_OF_USAGE
    parts |= found
    return schema


def alert_schema(kind: str, parts: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the data of an alert."""
    if kind not in _BREACHES:
        return {"title": kind, "type": "object", "properties": _OF_GATES, "required": ["service", "reason", "since"]}
    _, found = _schemas(Event)
    schema = found.pop("Event")
    fields = {name: one for name, one in schema["properties"].items() if name != "kind"}
    fields |= {name: {"type": "string", "format": "date-time"} for name in ("since", "at")}
    required = [name for name in schema["required"] if name != "kind"]
    parts |= {name: one for name, one in found.items() if name != "EventKind"}
    return {**schema, "title": kind, "properties": fields, "required": required}


def components() -> dict[str, Any]:
    """Return the schema of each kind of record that holds JSON."""
    kinds = (
        control.Command, feedback.Outcome | feedback.Finished, answers.Answer, answers.Audit, policies.Published, Block,
    )  # fmt: skip
    (command, told, *_), parts = _schemas(*kinds)
    parts |= {"Command": command, "Feedback": told}
    parts["History"] = {**parts.pop("Block"), "title": "History"}
    parts["Usage"] = usage_schema(parts)
    told = [value for name, value in vars(alert_types).items() if name.isupper()]
    for kind in told:
        parts[_alert_name(kind)] = alert_schema(kind, parts)
    return dict(sorted(parts.items()))


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3 document of all topics, as they are spelt unless a policy file says otherwise."""
    schemas = components()
    alerts = [name for name in schemas if name.startswith("Alert")]
    carried: Mapping[str, tuple[str, ...]] = {
        "usage": ("Usage",), "control": ("Command",), "answers": ("Answer",), "audit": ("Audit",),
        "policies": ("Published",), "feedback": ("Feedback",), "alerts": tuple(alerts), "history": ("History",),
    }  # fmt: skip
    messages = {
        name: {"contentType": "application/json", "payload": {"$ref": f"#/components/schemas/{name}"}}
        for names in carried.values()
        for name in names
    }
    messages["Request"] = {"description": "A producer's record: any key, any value; see the headers `gate-*`."}
    messages["State"] = {"description": "The gates' own, in a format of theirs."}
    channels, operations = {}, {}
    for kind, template in {name: getattr(Templates(), name) for name in Templates.__dataclass_fields__}.items():
        others = "Request" if kind in PER_SERVICE else "State"
        names = carried.get(kind, (others,))
        channel: dict[str, Any] = {
            "address": template.replace("{prefix}", "gate"),
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        }
        if kind in PER_SERVICE:
            channel["parameters"] = {"service": {"description": "the service's name"}}
        channels[kind] = channel
        action = "receive" if kind in {"requests", "control", "feedback", "leases", "retries"} else "send"
        operations[f"{action}-{kind}"] = {"action": action, "channel": {"$ref": f"#/channels/{kind}"}}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Admission gate: topics", "version": "1"},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _alert_name(kind: str) -> str:
    return "Alert" + "".join(part.capitalize() for part in kind.removeprefix("gate.").replace("_", ".").split("."))


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of `/v1`."""
    parts: dict[str, Any] = {}
    parts["Usage"] = usage_schema(parts)
    (answer, command), more = _schemas(answers.Answer, control.Command)
    parts |= more | {"Command": command, "Problem": {
        "type": "object", "properties": {"error": _TEXT, "hint": {"anyOf": [_TEXT, {"type": "null"}]}},
        "required": ["error"],
    }}  # fmt: skip
    services = {"type": "array", "items": {"$ref": "#/components/schemas/Usage"}}
    anything = {"type": "object"}
    texts = ("producer_id", "origin", "reason", "limit", "error", "place", "result", "result_base64")
    numbers = ("created_ms", "at_ms", "attempt", "not_before_ms", "ahead", "result_bytes")
    request = {
        "type": "object", "required": ["id", "service", "standing", "read"], "properties": {
            "id": _TEXT, "service": _TEXT, "standing": {"enum": [str(one) for one in Standing]}, "read": _COUNT,
            **dict.fromkeys(texts, _TEXT), **dict.fromkeys(numbers, _COUNT),
        },
    }  # fmt: skip
    usages = {"type": "object", "properties": {"services": services}, "required": ["services"]}
    accepted = {"type": "object", "properties": {"command": _TEXT, "answers": _TEXT}, "required": ["command"]}
    given = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Command"}}}}
    rows = {"required": True, "content": {kind: {"schema": _TEXT} for kind in ("text/csv", "application/x-ndjson")}}
    lines = {
        "type": "object", "required": ["services", "counts", "waiting", "troubles"],
        "properties": {"services": {"type": "array", "items": anything}, "at_ms": _MS, "waiting": _COUNT},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "Admission gate", "version": "1"},
        "security": [{}, {"bearer": []}],
        "paths": {
            "/v1/usage": {"get": _operation("Usage of the services that this gate has", usages)},
            "/v1/policy": {"get": _operation("What is in force, and where each field comes from", anything)},
            "/v1/pressure": {"get": _operation(
                "Services of the whole group, those first that take longest to drain", lines,
                ("q", "state", "page", "size"),
            )},
            "/v1/requests/{id}": {"get": _operation(
                "Where one request stands; with `result=true`, and for a role, also what its worker has answered",
                request, ("service", "result"), path="id", fails=("401", "404", "503"),
            )},
            "/v1/services/{service}/commands": {"post": _operation(
                "Give a command; the gates carry out each id once", accepted, path="service",
                fails=("400", "401", "403", "413", "503"), ok="202",
            ) | {"requestBody": given}},
            "/v1/groups/{group}/commands": {"post": _operation(
                "Give set-limit or clear-limit, of the limits that the services of a group share", accepted,
                path="group", fails=("400", "401", "403", "413", "503"), ok="202",
            ) | {"requestBody": given}},
            "/v1/commands/{id}": {"get": _operation(
                "The last answer to a command", answer, ("service",), path="id", fails=("404", "503")
            )},
            "/v1/services/{service}/limits": {"post": _operation(
                "Set the limits of all tenants of a service, as a whole", accepted, ("reason", "if_version", "id"),
                path="service", fails=("400", "401", "403", "413", "503"), ok="202",
            ) | {"requestBody": rows}},
        },
        "components": {
            "schemas": dict(sorted(parts.items())),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def _operation(
    summary: str,
    schema: Mapping[str, Any],
    query: tuple[str, ...] = (),
    *,
    path: str = "",
    fails: tuple[str, ...] = ("401",),
    ok: str = "200",
) -> dict[str, Any]:
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    parameters = [{"name": name, "in": "query", "schema": _TEXT} for name in query]
    parameters += [{"name": path, "in": "path", "required": True, "schema": _TEXT}] if path else []
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            ok: {"description": summary, "content": {"application/json": {"schema": schema}}},
            **{status: {"description": "refused: `error` says why", "content": problem} for status in fails},
        },
    }


WRITTEN: Final = {"asyncapi.json": asyncapi, "openapi.json": openapi}


def main() -> int:
    """Write the documents."""
    for name, make in WRITTEN.items():
        (REFERENCE / name).write_text(json.dumps(make(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
