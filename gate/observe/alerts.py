"""Alerts as CloudEvents 1.0 in Kafka binary mode: breach events, and what befalls the gate itself."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from cloudevents.core.bindings.kafka import to_binary_event
from cloudevents.core.v1.event import CloudEvent

from gate.admission.model import MS, Event, EventKind
from gate.protocol.alert_types import (
    CLOCK_SKEWED,
    NEAR_LIMIT,
    ONGOING,
    OPENED,
    OWNER_AWAY,
    POLICY_ACCEPTED,
    POLICY_REFUSED,
    RESOLVED,
    RESUMED,
    SHARD_FAILED,
    SHARD_RECOVERED,
    WAITING,
)

_OF_EVENT: Final = {
    EventKind.OPENED: OPENED,
    EventKind.ONGOING: ONGOING,
    EventKind.RESOLVED: RESOLVED,
    EventKind.NEAR_LIMIT: NEAR_LIMIT,
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_TEXT: Final = 16_384  # characters: what no broker takes would be tried for ever, and hold up what comes after


class AlertRecord(NamedTuple):
    """A record for the alerts topic. The key keeps the alerts of a service in order."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def of_event(event: Event, prefix: str = "gate") -> AlertRecord:
    """Return the alert of a breach event.

    The same event has the same id however often it is written, so that consumers can tell repetitions: one `opened`
    and one `resolved` per breach, an `ongoing` at growing intervals.
    """
    kind = _OF_EVENT[event.kind]
    times = f"{event.since}/{event.at}" if event.kind is EventKind.ONGOING else f"{event.since}"
    data = msgspec.to_builtins(event) | {"since": _text(event.since), "at": _text(event.at)}
    del data["kind"]
    name = f"{event.service}/{event.kind}/{times}"
    return _alert(prefix, kind, event.service, name=name, at=event.at, data=data)


def policy_refused(path: str, version: str, error: str, at: int, prefix: str = "gate", gate: str = "") -> AlertRecord:
    """Return the alert that a policy file is broken, and `version` stays in force at `gate`. `at` is in ns."""
    data = {"service": "", "policy_file": path, "policy": version, "gate": gate, "reason": error, "since": _text(at)}
    return _alert(prefix, POLICY_REFUSED, "", name=f"policy/{path}/{at}", at=at, data=data)


def policy_accepted(
    path: str,
    version: str,
    at: int,
    prefix: str = "gate",
    gate: str = "",
    reason: str = "the policy file is in force",
    begun: str = "",
) -> AlertRecord:
    """Return the alert that what `policy_refused` has told of `gate` is over, and why. `at` is in ns.

    `begun` is the id of the alert that ends: the end has an id that follows from it, whoever says it, however often.
    """
    data = {"service": "", "policy_file": path, "policy": version, "gate": gate, "reason": reason, "since": _text(at)}
    name = _end_of(begun, prefix) or f"policy-accepted/{path}/{at}"
    return _alert(prefix, POLICY_ACCEPTED, "", name=name, at=at, data=data)


def shard_failed(shard: int, error: str, failures: int, at: int, prefix: str = "gate", gate: str = "") -> AlertRecord:
    """Return the alert that a shard failed `failures` times at `gate` since its requests last advanced. `at` in ns."""
    data = {"service": "", "shard": shard, "gate": gate, "reason": error, "failures": failures, "since": _text(at)}
    return _alert(prefix, SHARD_FAILED, "", name=f"shard/{shard}/{at}", at=at, data=data)


def shard_recovered(
    shard: int, at: int, prefix: str = "gate", reason: str = "its requests go on", gate: str = "", begun: str = ""
) -> AlertRecord:
    """Return the alert that `shard_failed` of this shard is over, as `gate` has found, and why. `at` is in ns.

    For `begun` see `policy_accepted`.
    """
    data = {"service": "", "shard": shard, "gate": gate, "reason": reason, "since": _text(at)}
    name = _end_of(begun, prefix) or f"shard-recovered/{shard}/{at}"
    return _alert(prefix, SHARD_RECOVERED, "", name=name, at=at, data=data)


def partition_waiting(*, at: int, prefix: str = "gate", **what: Any) -> AlertRecord:
    """Return the alert that a partition stands.

    Of it: `service`, `topic`, `partition`, `offset`, `since`, `reason`, `remedy`, `shard`, `gate`. Times are in ns.
    """
    return _about_partition(WAITING, at, prefix, what)


def partition_resumed(*, at: int, prefix: str = "gate", begun: str = "", **what: Any) -> AlertRecord:
    """Return the alert that a partition goes on of which `partition_waiting` has told. See `policy_accepted`."""
    return _about_partition(RESUMED, at, prefix, what, begun)


def _about_partition(kind: str, at: int, prefix: str, what: Mapping[str, Any], begun: str = "") -> AlertRecord:
    place = f"{what['topic']}-{what['partition']}"
    name = _end_of(begun, prefix) or f"{kind.removeprefix('gate.')}/{place}@{what['offset']}/{what['since']}/{at}"
    return _alert(prefix, kind, what["service"], name=name, at=at, data={**what, "since": _text(what["since"])})


def _end_of(begun: str, prefix: str) -> str:
    return f"{begun.removeprefix(f'{prefix}/')}/end" if begun else ""


def clock_skewed(host: str, seconds: float, at: int, prefix: str = "gate") -> AlertRecord:
    """Return the alert that a host's clock is off by `seconds` from the broker's. `at` is in ns."""
    data = {"service": "", "host": host, "reason": f"clock is off by {seconds:.1f} s", "since": _text(at)}
    return _alert(prefix, CLOCK_SKEWED, "", name=f"clock/{host}/{at}", at=at, data=data)


def owner_away(service: str, let_go: int, refused: int, at: int, prefix: str = "gate") -> AlertRecord:
    """Return the alert that processes went without the owner of a service's limit, as is known now. `at` is in ns.

    `let_go` units may be over the limit, and `refused` ones were not asked about.
    """
    reason = f"no owner answered: processes let {let_go} units go by themselves, and refused {refused}"
    data = {"service": service, "reason": reason, "let_go": let_go, "refused": refused, "since": _text(at)}
    return _alert(prefix, OWNER_AWAY, service, name=f"owner-away/{service}/{at}", at=at, data=data)


def _alert(prefix: str, kind: str, service: str, *, name: str, at: int, data: Mapping[str, Any]) -> AlertRecord:
    attributes = {
        "id": f"{prefix}/{name}",
        "source": f"/{prefix}/services/{service}" if service else f"/{prefix}",
        "type": kind,
        "specversion": "1.0",
        "time": _time(at),
        "datacontenttype": "application/json",
    }
    if service:
        attributes["subject"] = service
    told = {key: value[:LONGEST_TEXT] if isinstance(value, str) else value for key, value in data.items()}
    message = to_binary_event(CloudEvent(attributes, told))
    return AlertRecord(service.encode(), message.value, tuple(message.headers.items()))


def _time(at: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at // MS)


def _text(at: int) -> str:
    return _time(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
