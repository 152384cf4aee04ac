"""Alerts for a Prometheus Alertmanager (API v2), which groups, silences and routes them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx

from gate.client._alert import Alert
from gate.client._alert_sinks.receiver import Receiver
from gate.client._alert_sinks.sink import Sink
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
from gate.text import timestamp

_PATH: Final = "/api/v2/alerts"
_FIRES: Final = timedelta(minutes=15)  # unless told again: three of the longest pauses between `ongoing` alerts
_NAMES: Final = {
    OPENED: "GateBreach", ONGOING: "GateBreach", RESOLVED: "GateBreach",
    NEAR_LIMIT: "GateNearLimit", POLICY_REFUSED: "GatePolicyRefused", SHARD_FAILED: "GateShardFailed",
    POLICY_ACCEPTED: "GatePolicyRefused", SHARD_RECOVERED: "GateShardFailed",
    WAITING: "GatePartitionWaiting", RESUMED: "GatePartitionWaiting", CLOCK_SKEWED: "GateClockSkewed",
    OWNER_AWAY: "GateOwnerAway",
}  # fmt: skip
_ENDS: Final = frozenset({RESOLVED, RESUMED, SHARD_RECOVERED, POLICY_ACCEPTED})


class Alertmanager(Sink):
    """Posts each alert.

    The labels are `alertname`, `service`, `limit` and `reason` where they apply, and the gate as `gate`: the same from
    the opening of a breach to its end, which is posted as `endsAt`. What is not told again ends by itself after 15
    minutes. `url` is that of the Alertmanager, with its path prefix if it has one.
    """

    def __init__(
        self,
        url: str,
        *,
        client: httpx.AsyncClient | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._receiver = Receiver("the Alertmanager", url.rstrip("/").removesuffix(_PATH) + _PATH, client)
        self._now = now

    async def deliver(self, alert: Alert) -> None:
        """Post one alert."""
        body = json.dumps([self._entry(alert)]).encode()
        await self._receiver.post(body, {"content-type": "application/json"})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._receiver.aclose()

    def _entry(self, alert: Alert) -> dict[str, Any]:
        is_about_limit = alert.type in _NAMES and alert.limit
        labels = {
            "alertname": _NAMES.get(alert.type, alert.type),
            "gate": alert.event.get_source().strip("/").split("/")[0],
            "service": alert.service,
            "limit": alert.limit,
            "reason": alert.reason if is_about_limit else "",  # elsewhere it is a text, never twice the same
            "host": str(alert.data.get("host", "")),
            "shard": str(alert.data.get("shard", "")),
            "policy_file": str(alert.data.get("policy_file", "")),
            "topic": str(alert.data.get("topic", "")),
            "partition": str(alert.data.get("partition", "")),
        }
        ends = alert.time if alert.type in _ENDS else max(alert.time, self._now()) + _FIRES
        return {
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {"summary": alert.summary() or alert.type, "id": alert.id},
            "startsAt": timestamp(min(alert.since, alert.time)),
            "endsAt": timestamp(ends),
        }
