"""What each view shows, rendered: the parts of pages that are sent as server-sent events, too."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from jinja2 import Environment, PackageLoader

from gate.console import words
from gate.console.asked import Asked
from gate.console.assets import asset
from gate.console.feed import Feed
from gate.console.view import KINDS, Trouble, limit_name

LIVE: Final = frozenset({"pressure", "service", "shards", "audit"})  # they are followed once a second
_MARKS: Final = 30
_AUDITS: Final = 200

Explain = Callable[[str], Mapping[str, Any] | None]
Troubles = Callable[[], Sequence[Trouble]]
Shown = Callable[[Asked, int], Awaitable[dict[str, Any]]]


class Views:
    """The views over what is known of the group.

    `explain` returns the policy of a service, field by field with its origin, None where it is not known; `troubles`
    what is wrong with the process itself.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        explain: Explain = lambda _: None,
        troubles: Troubles = tuple,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._feed = feed
        self._explain = explain
        self._troubles = troubles
        self.wall_ms = wall_ms
        self.templates = _environment()
        self._shown: Mapping[str, Shown] = {
            "pressure": self._pressure, "service": self._service, "shards": self._shards, "audit": self._audit,
        }  # fmt: skip

    async def render(self, asked: Asked) -> str:
        """Return a view as HTML."""
        await self._feed.use()
        now = self.wall_ms()
        shown: dict[str, Any] = {"asked": asked, "now": now, "troubles": self.all_troubles(now)}
        shown |= await self._shown[asked.view](asked, now)
        return self.templates.get_template(f"{asked.view}.html").render(shown)

    def all_troubles(self, now: int) -> list[Trouble]:
        """Return what is wrong with the group, or keeps it from being known."""
        return [*self._feed.troubles(), *self._troubles(), *self._feed.group.troubles(now)]

    def lanes(self, service: str) -> list[str]:
        """Return the lanes of a service."""
        record = self._feed.group.record(service)
        return [] if record is None else [lane.name for lane in record.lanes]

    # -- one by one ------------------------------------------------------------------------------------------------

    def _whole(self, asked: Asked, now: int) -> dict[str, Any]:
        """Return what stands above views of the whole group."""
        pressure = self._feed.group.pressure(
            now, query=asked.query, state=asked.state, page=asked.page, names=asked.names
        )
        return {"pressure": pressure, "worst": "bad" if self.all_troubles(now) else pressure.kind}

    async def _pressure(self, asked: Asked, now: int) -> dict[str, Any]:
        return self._whole(asked, now)

    async def _shards(self, asked: Asked, now: int) -> dict[str, Any]:
        return self._whole(asked, now) | {"owners": self._feed.group.owners()}

    async def _audit(self, asked: Asked, now: int) -> dict[str, Any]:
        return self._whole(asked, now) | {"audits": self._feed.group.commanded.audits()[:_AUDITS]}

    async def _service(self, asked: Asked, now: int) -> dict[str, Any]:
        group, service = self._feed.group, asked.service
        record = group.record(service)
        totals = sorted(record.totals, key=lambda total: -total.requests) if record is not None else []
        return {
            "record": record,
            "line": group.line(service, now, names=asked.names),
            "totals": totals,
            "commands": group.commanded.latest(service, now, names=asked.names),
            "marks": list(reversed(group.marks(service, names=asked.names)))[:_MARKS],
            "policy": _shown_to(self._explain(service), names=asked.names),
        }


def _shown_to(policy: Mapping[str, Any] | None, *, names: bool) -> Mapping[str, Any] | None:
    """Return a policy without what names tenants, unless names may be told."""
    if policy is None or names:
        return policy
    return {name: origin for name, origin in policy.items() if not name.startswith("tenants.")}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gate.console"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "duration": words.duration, "rate": words.rate, "number": words.number, "clock": words.clock,
        "text": words.text,
    }  # fmt: skip
    environment.globals |= {"limit_name": limit_name, "asset": asset, "KINDS": KINDS, "until": words.until}
    return environment
