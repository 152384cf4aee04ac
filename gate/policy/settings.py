"""Settings of the gate: the keys at the top of a policy file that concern no single service."""

import re
import string
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from gate.policy.errors import PolicyError, Problem, dotted, quoted
from gate.policy.fields import (
    Flag,
    Seconds,
    Text,
    describe,
    errors_of,
    mapping_of,
    one_of,
    read_text,
    whole_number,
    wrong,
)
from gate.policy.source import scalar

_ALPHABET: Final = frozenset(string.ascii_letters + string.digits + "._-")
_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+):(?P<port>[0-9]{1,5})")
_HOST: Final = re.compile(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,252}")
_PER_SERVICE: Final = frozenset({"requests", "admitted", "delayed", "rejected", "results", "retries", "feedback"})
_MAX_PREFIX: Final = 100
ENVIRONMENT: Final = "GATE_"
CONFIG: Final = "GATE_CONFIG"  # names the policy file


class Delivery(StrEnum):
    """What a crash may do to a request: nothing at all, or repeat it."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


class Compression(StrEnum):
    """How the gate's outputs are compressed; `keep` takes what the producer used."""

    KEEP = "keep"
    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


class Unmatched(StrEnum):
    """What a sidecar answers where no service matches a descriptor."""

    ALLOW = "allow"
    REFUSE = "refuse"


class StrictModel(BaseModel):
    """A part of the document: frozen, and it refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _read_template(value: object, kind: str) -> str:
    text = read_text(value)
    rest = text.replace("{prefix}", "").replace("{service}", "")
    if set(rest) - _ALPHABET or len(rest) > _MAX_PREFIX:
        raise wrong(f"{quoted(text)} makes no topic that Kafka takes", "use letters, digits, `.`, `_` and `-`")
    wanted = 1 if kind in _PER_SERVICE else 0
    if text.count("{service}") != wanted:
        raise wrong(f"must hold {{service}} {'once' if wanted else 'nowhere'}, not {quoted(text)}")
    return text


def _template(kind: str) -> PlainValidator:
    return PlainValidator(lambda value: _read_template(value, kind))


class Topics(StrictModel):
    """How each topic is spelt; `{prefix}` and `{service}` stand for what they say."""

    requests: Annotated[str, _template("requests")] = "{prefix}.requests.{service}"
    admitted: Annotated[str, _template("admitted")] = "{prefix}.admitted.{service}"
    delayed: Annotated[str, _template("delayed")] = "{prefix}.delayed.{service}"
    rejected: Annotated[str, _template("rejected")] = "{prefix}.rejected.{service}"
    results: Annotated[str, _template("results")] = "{prefix}.results.{service}"
    retries: Annotated[str, _template("retries")] = "{prefix}.retries.{service}"
    feedback: Annotated[str, _template("feedback")] = "{prefix}.feedback.{service}"
    alerts: Annotated[str, _template("alerts")] = "{prefix}.alerts"
    usage: Annotated[str, _template("usage")] = "{prefix}.usage"
    state: Annotated[str, _template("state")] = "{prefix}.state"
    control: Annotated[str, _template("control")] = "{prefix}.control"
    answers: Annotated[str, _template("answers")] = "{prefix}.answers"
    audit: Annotated[str, _template("audit")] = "{prefix}.audit"
    leases: Annotated[str, _template("leases")] = "{prefix}.leases"
    grants: Annotated[str, _template("grants")] = "{prefix}.grants"
    policies: Annotated[str, _template("policies")] = "{prefix}.policies"
    history: Annotated[str, _template("history")] = "{prefix}.history"

    def overhead(self, prefix: str) -> int:
        """Characters that the longest topic of a service has beside the service's name."""
        longest = max((getattr(self, kind) for kind in _PER_SERVICE), key=lambda text: len(_spelt(text, prefix)))
        return len(_spelt(longest, prefix))


def _spelt(template: str, prefix: str) -> str:
    return template.replace("{prefix}", prefix).replace("{service}", "")


def _read_prefix(value: object) -> str:
    text = read_text(value)
    if set(text) - _ALPHABET or len(text) > _MAX_PREFIX or text.endswith("."):
        raise wrong(
            f"{quoted(text)} cannot begin a topic's name",
            f"use letters, digits, `.`, `_` and `-`, at most {_MAX_PREFIX}, and no `.` at its end",
        )
    return text


def _read_bootstrap(value: object) -> str:
    text = read_text(value)
    addresses = [part.strip() for part in text.split(",")]
    for address in addresses:
        _address(address, 1)
    return ",".join(addresses)


def _read_http(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"127.0.0.1:{value}"
    host, port = _address(read_text(value), 0, "write a port, HOST:PORT, or null for no HTTP")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(text: str, lowest_port: int, hint: str = "write it as in localhost:9092") -> tuple[str, int]:
    found = _ADDRESS.fullmatch(text)
    if not found or not lowest_port <= int(found["port"]) <= 65_535:
        raise wrong(f"must be HOST:PORT, not {quoted(text)}", hint)
    return found["host"].strip("[]"), int(found["port"])


def _read_hosts(value: object) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value or ()
    if not isinstance(names, list | tuple):
        raise wrong(f"must be a name or a list of names, not {quoted(value)}")
    for name in names:
        if not isinstance(name, str) or not _HOST.fullmatch(name):
            raise wrong(f"{quoted(name)} is no host's name", "write it without scheme and port, as in gate.example.com")
    return tuple(names)


def _read_replication(value: object) -> int:
    if value == -1 and not isinstance(value, bool):
        return -1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 32_767:
        raise wrong(f"must be a number of replicas, or -1 for the broker's default, not {quoted(value)}")
    return value


class Settings(StrictModel):
    """The settings of one gate, complete. Times are in seconds."""

    bootstrap: Annotated[str, PlainValidator(_read_bootstrap)] = "localhost:9092"
    prefix: Annotated[str, PlainValidator(_read_prefix)] = "gate"
    topics: Annotated[Topics, mapping_of("topics to templates")] = Topics()
    group_id: Text = Field(default_factory=lambda given: given.get("prefix", "gate"))
    shards: Annotated[int, whole_number(1, 1000)] = 16
    create_topics: Flag = True
    replication_factor: Annotated[int, PlainValidator(_read_replication)] = -1
    delivery: Annotated[Delivery, one_of(Delivery)] = Delivery.EXACTLY_ONCE
    compression: Annotated[Compression, one_of(Compression)] = Compression.NONE
    fail_open: Flag = True
    unmatched: Annotated[Unmatched, one_of(Unmatched)] = Unmatched.ALLOW
    http: Annotated[str | None, PlainValidator(_read_http)] = None
    http_host: Annotated[tuple[str, ...], BeforeValidator(_read_hosts)] = ()
    max_clock_skew: Seconds = 10.0
    connect_timeout: Seconds = 30.0
    session_timeout: Seconds = 6.0  # a gate that is silent for so long loses its shards
    discovery_interval: Seconds = 3.0  # how soon new request topics are found

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port to serve HTTP on, port 0 for any free one; None: no HTTP."""
        return None if self.http is None else _address(self.http, 0)

    def override(self, **settings: Any) -> Self:
        """Return these settings with some replaced; None leaves one as it is, "off" switches `http` off.

        What follows from a setting (`group_id` from `prefix`) follows unless it was given itself.
        Raises PolicyError for an unknown setting or a value that it cannot take.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        if given.get("http") == "off":
            given["http"] = None
        return self._updated(given, "settings")

    def with_environment(self, environment: Mapping[str, str]) -> Self:
        """Return these settings with those replaced that a variable names: GATE_BOOTSTRAP, GATE_SHARDS, ..."""
        names = {ENVIRONMENT + name.upper(): name for name in type(self).model_fields if name != "topics"}
        given = {name: _plain(name, environment[key]) for key, name in names.items() if environment.get(key)}
        return self._updated(given, "environment", ENVIRONMENT)

    def _updated(self, given: dict[str, Any], source: str, prefix: str = "") -> Self:
        try:
            return type(self).model_validate(self.model_dump(exclude_unset=True) | given)
        except ValidationError as error:
            problems = []
            for item in errors_of(error):
                message, hint = describe(item, type(self).model_fields)
                name = dotted(item["loc"])
                problems.append(Problem(message, prefix + name.upper() if prefix else name, hint=hint))
            raise PolicyError(source, problems) from None


def _plain(name: str, text: str) -> Any:
    """Read an environment variable as the file would be read; what is text in the file stays text."""
    if name == "http" and text == "off":
        return None
    return text if name in {"bootstrap", "prefix", "group_id", "http_host"} else scalar(text)
