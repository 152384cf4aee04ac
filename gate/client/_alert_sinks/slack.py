"""Alerts as messages of a chat, by an incoming webhook as Slack, Mattermost, Rocket.Chat and others have it."""

import json
from typing import Final

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
    RESOLVED,
    RESUMED,
    WAITING,
)

_HEADINGS: Final = {
    OPENED: ":red_circle: over its limit",
    ONGOING: ":large_orange_circle: still over its limit",
    RESOLVED: ":large_green_circle: within its limits again",
    WAITING: ":red_circle: a partition stands",
    RESUMED: ":large_green_circle: a partition goes on",
    POLICY_ACCEPTED: ":large_green_circle: the policy is in force again",
    CLOCK_SKEWED: ":large_yellow_circle: a host's clock is off",
    OWNER_AWAY: ":large_yellow_circle: no owner of its limit answered",
    NEAR_LIMIT: ":large_yellow_circle: near its limit",
}
_MOST_CHARACTERS: Final = 2000


class Slack(Sink):
    """Posts each alert as a message. Such a webhook knows no ids: after a crash an alert may be shown twice."""

    def __init__(self, url: str, *, client: httpx.AsyncClient | None = None) -> None:
        self._receiver = Receiver("the chat's webhook", url, client)

    async def deliver(self, alert: Alert) -> None:
        """Post one alert."""
        heading = _HEADINGS.get(alert.type, f":warning: {alert.type}")
        text = _plain(f"*{alert.service or 'gate'}* {heading}: {alert.summary()[:_MOST_CHARACTERS]}")
        await self._receiver.post(json.dumps({"text": text}).encode(), {"content-type": "application/json"})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._receiver.aclose()


def _plain(text: str) -> str:
    """Escape what would become a link or a mention of everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
