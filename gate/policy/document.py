"""The document that a user writes, field by field as written; inheritance is resolved elsewhere."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails

from gate.limits import Per
from gate.policy.errors import Loc, Problem, dotted
from gate.policy.fields import (
    Count,
    Duration,
    Flag,
    Overflow,
    Rate,
    Ratio,
    Text,
    Weight,
    describe,
    errors_of,
    mapping_of,
    one_of,
    read_timezone,
    whole_number,
    wrong,
)
from gate.policy.names import Extends, Label, ServiceName, TenantName
from gate.policy.settings import Settings, StrictModel, Topics
from gate.policy.source import Node
from gate.units import SECOND

MAX_LANES = 32  # each is a queue and a label of metrics
MOST_RUNNING = 1_000_000  # each takes some 300 B in memory, and its place in the state
MOST_IDS = 10_000_000  # some 500 MB
MAX_TENANTS_BOUND = 10_000_000  # each that waits costs a gate 2 KB


def _some_keys(keys: dict[str, str]) -> dict[str, str]:
    if not keys:
        raise wrong("must name at least one key of a descriptor", 'write as in {path: /search} or {user: "*"}')
    return keys


def _listed(value: object) -> object:
    """Take one mapping for a list of one."""
    return [value] if isinstance(value, dict) else value


class WindowFields(StrictModel):
    """At most `limit` units in any interval of `size` ns."""

    limit: Count
    size: Duration


class QuotaFields(StrictModel):
    """At most `limit` units in each day, week, month or year of a time zone."""

    limit: Count
    per: Annotated[Per, one_of(Per)]
    timezone: Annotated[str, PlainValidator(read_timezone)] = "UTC"


class DeduplicateFields(StrictModel):
    """Of requests with one id the first one passes, for so many ns; at most so many ids are kept."""

    for_: Duration = Field(alias="for")
    at_most: Annotated[int, whole_number(1, MOST_IDS)] = 1_000_000
    by: Text = "id"


def _with_its_time(value: object) -> object:
    return value if isinstance(value, dict) else {"for": value}


class MatchFields(StrictModel):
    """The requests of Envoy that belong to a service: a domain, and the keys of a descriptor with their values."""

    domain: Text
    descriptors: Annotated[dict[Text, Text], mapping_of("keys to values"), AfterValidator(_some_keys)]
    tenant: Text | None = None  # the key whose value is the tenant


class LimitFields(StrictModel):
    """What a service, tenant or group may be limited by. Only fields that were set count; None says "none"."""

    requests_per_second: Rate | None = None
    burst_size: Count | None = None
    window_size: Duration | None = None
    window_limit: Count | None = None
    windows: tuple[WindowFields, ...] | None = None
    quotas: tuple[QuotaFields, ...] | None = None
    max_running: Annotated[int, whole_number(1, MOST_RUNNING)] | None = None


def _some_lanes(lanes: dict[str, Any]) -> dict[str, Any]:
    if not 1 <= len(lanes) <= MAX_LANES:
        raise wrong(f"must name 1 to {MAX_LANES} lanes, not {len(lanes)}", "leave the field out for one lane")
    return lanes


Limits = Annotated[LimitFields, mapping_of("limits")]
Lanes = Annotated[dict[Label, Weight], AfterValidator(_some_lanes)]


class ServiceFields(LimitFields):
    """What can be said about a service, in its own entry, a template or the defaults."""

    group: Label | None = None
    overflow: Annotated[Overflow, one_of(Overflow)] = Overflow.DELAY
    max_delay: Duration | None = None
    priorities: Lanes | None = None
    max_in_flight: Count | None = None
    worker_group: Text | None = None
    tenants: dict[TenantName, Limits] | None = None
    shadow: Flag = False
    match: Annotated[tuple[MatchFields, ...] | None, BeforeValidator(_listed)] = None
    near_limit: Ratio = 0.8
    max_tenants: Annotated[int, whole_number(1, MAX_TENANTS_BOUND)] = 100_000
    keep_released: Duration | None = 86_400 * SECOND
    running_timeout: Duration | None = 3_600 * SECOND
    deduplicate: Annotated[DeduplicateFields, BeforeValidator(_with_its_time)] | None = None


class EntryFields(ServiceFields):
    """A service's entry or a template: these may build on templates."""

    extends: Extends | None = None


Entry = Annotated[EntryFields, mapping_of("fields")]


class Document(Settings):
    """The whole file."""

    defaults: Annotated[ServiceFields, mapping_of("fields")] = ServiceFields()
    templates: Annotated[dict[Label, Entry], mapping_of("names to fields")] = Field(default_factory=dict)
    groups: Annotated[dict[Label, Limits], mapping_of("names to limits")] = Field(default_factory=dict)
    services: Annotated[dict[ServiceName, Entry], mapping_of("names to fields")] = Field(default_factory=dict)


def read_document(root: Node) -> tuple[Document | None, list[Problem]]:
    """Check every field of a document; None with at least one problem where it cannot be used."""
    try:
        return Document.model_validate(root.value), []
    except ValidationError as error:
        return None, [_problem(item, root) for item in errors_of(error)]


def fields_at(loc: Loc) -> type[StrictModel] | None:
    """Return the model of the mapping at `loc`; None where keys are names."""
    match loc:
        case ():
            return Document
        case ("topics",):
            return Topics
        case ("defaults",):
            return ServiceFields
        case (*_, "windows", int()):
            return WindowFields
        case (*_, "quotas", int()):
            return QuotaFields
        case (*_, "match", int()):
            return MatchFields
        case (*_, "deduplicate"):
            return DeduplicateFields
        case ("groups", _) | (*_, "tenants", _):
            return LimitFields
        case ("templates" | "services", _):
            return EntryFields
    return None


def _problem(item: ErrorDetails, root: Node) -> Problem:
    loc, at_key = item["loc"], item["type"] == "extra_forbidden"
    if loc and loc[-1] == "[key]":
        loc, at_key = loc[:-1], True
    here = fields_at(loc[:-1])
    known = [field.alias or name for name, field in here.model_fields.items()] if here else ()
    message, hint = describe(item, known)
    if at_key and not hint:
        hint = _elsewhere(loc[-1])
    return Problem(message, dotted(loc), root.locate(loc, key=at_key), hint)


def _elsewhere(name: object) -> str:
    """Say where a field belongs that is not known here."""
    if name == "extends":
        return "only services and templates can extend a template"
    if name in EntryFields.model_fields:
        return f"{name} belongs to a service, a template or `defaults`"
    if name in Document.model_fields:
        return f"{name} belongs to the top of the file"
    return ""
