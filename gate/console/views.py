"""What each view shows, rendered: the parts of pages that are sent as server-sent events, too."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from jinja2 import Environment, PackageLoader

from gate.console import words
from gate.console.asked import Asked
from gate.console.assets import asset
from gate.console.feed import Feed
from gate.console.in_force import explained, in_force, limit_set
from gate.console.lookups import Lookups
from gate.console.tenant import tenant_policy, tenant_seen, top_tenants
from gate.console.told_policy import ToldPolicy
from gate.console.tried import Change
from gate.console.view import KINDS, Trouble, limit_name
from gate.errors import GateError
from gate.kafka.tenant_limits import limits_of
from gate.policy import Policy
from gate.policy.wording import spell_duration
from gate.protocol.policies import LiveLimit, Published

LIVE: Final = frozenset({"pressure", "service", "shards", "audit"})  # they are followed once a second
PAGES: Final = {  # where each view is
    "pressure": "/", "service": "/services/{service}", "tenant": "/services/{service}/tenant",
    "what-if": "/services/{service}/what-if", "request": "/requests", "shards": "/shards", "brokers": "/brokers",
    "mesh": "/mesh", "audit": "/audit",
}  # fmt: skip
_MARKS: Final = 30
_AUDITS: Final = 200
_SHARES: Final = 200
_CHANGES: Final = {  # what would let a request go sooner, by why it waits
    "rate": "a higher limit", "window": "a higher limit, or time", "quota": "a larger quota, or its renewal",
    "tenant": "a higher limit of its tenant", "group": "a larger budget of its group", "paused": "to resume",
    "lane": "to move or expedite it: others wait in front", "in-flight": "workers that finish",
    "running": "jobs that are done", "blocked": "a limit above 0", "scheduled": "nothing: it asked for that time",
}  # fmt: skip

Troubles = Callable[[], Sequence[Trouble]]
Shown = Callable[[Asked, int], Awaitable[dict[str, Any]]]


class Views:
    """The views over what is known of the group.

    `troubles` returns what is wrong with the process itself.
    """

    def __init__(
        self,
        feed: Feed,
        lookups: Lookups,
        *,
        troubles: Troubles = tuple,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._feed = feed
        self._lookups = lookups
        self._troubles = troubles
        self._told = ToldPolicy(lookups.tenant_limits)
        self.wall_ms = wall_ms
        self.templates = _environment()
        self._shown: Mapping[str, Shown] = {
            "pressure": self._pressure, "service": self._service, "shards": self._shards, "audit": self._audit,
            "tenant": self._tenant, "what-if": self._what_if, "request": self._request, "mesh": self._mesh,
            "brokers": self._brokers,
        }  # fmt: skip

    async def close(self) -> None:
        """End what is looked up."""
        await self._lookups.close()

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

    def group_of(self, service: str) -> str:
        """Return the group whose budget a service shares; empty: none."""
        record = self._feed.group.record(service)
        return "" if record is None else record.group

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
            "policy": explained(self._in_force(service, now), service, names=asked.names),
        }

    def _in_force(self, service: str, now: int, tenants: Mapping[str, LiveLimit] | None = None) -> Policy | None:
        """Return the policy in force, as far as a service goes; None: the file's is not known here."""
        policy, record = self._lookups.policy(), self._feed.group.record(service)
        if policy is None or record is None:
            return policy
        return in_force(policy, [record], now, {service: tenants or {}})

    async def policy(self, *, names: bool) -> bytes | None:
        """Return what is in force for each service and group, field by field with its origin; None: it is not known.

        With `names` tenants are told as well, of those for whom something is set live the first 200. Raises GateError.
        """
        group = await self._feed.use()
        if (file := self._lookups.policy()) is None:
            return None
        now, limited = self.wall_ms(), group.limited()
        return await self._told.policy(file, limited, set(group.services()), now, names=names)

    # -- what is looked up -----------------------------------------------------------------------------------------

    async def _request(self, asked: Asked, now: int) -> dict[str, Any]:
        if not asked.id:
            return {"found": None}
        try:
            found = await self._lookups.request(asked.id, asked.service or None)
        except GateError as error:
            return {"found": None, "fault": error}
        group = self._feed.group
        return {
            "found": found,
            "limit": limit_name(found.limit or "", found.service, names=asked.names),
            "changes": _CHANGES.get(found.reason or "", "") if found.standing == "waiting" else "",
            "line": group.line(found.service, now, names=asked.names),
        }

    async def _tenant(self, asked: Asked, now: int) -> dict[str, Any]:
        group, service, tenant = self._feed.group, asked.service, asked.tenant
        shown: dict[str, Any]
        if not (tenant and asked.names):
            shown = {"seen": None, "record": group.record(service)}
            if not asked.names:
                return shown
            try:
                recording = await self._lookups.recording(service)
            except GateError as error:
                return shown | {"fault": error}
            return shown | {"tops": top_tenants(recording), "since": recording.since_ms, "cut": recording.cut}
        record, commanded, fault = group.record(service), group.commanded, None
        set_live: Mapping[str, Published] = {}
        if record is not None and record.tenants_limited:
            try:
                found = await self._lookups.tenant_limits({service: frozenset({tenant})})
                set_live = found.get(service, {})
            except GateError as error:
                fault = error
        policy = self._in_force(service, now, limits_of(set_live))
        shown = {
            "record": record,
            "line": group.line(service, now, names=True),
            "pause": commanded.pause_of(service, tenant),
            "limit_set": limit_set(set_live.get(tenant), now),
            "audits": commanded.audits(service, tenant)[:_MARKS],
            **tenant_policy(policy, service, tenant, explained(policy, service, names=True) or {}),
        }
        try:
            return shown | {"fault": fault, "seen": tenant_seen(await self._lookups.recording(service), tenant)}
        except GateError as error:
            return shown | {"seen": None, "fault": error}

    async def _what_if(self, asked: Asked, now: int) -> dict[str, Any]:
        group, change = self._feed.group, Change(asked.percent, asked.windows)
        record, policy = group.record(asked.service), self._in_force(asked.service, now)
        given = dict(asked.windows)
        windows = [] if policy is None else policy.effective(asked.service).spec.windows
        shown = {
            "percent": asked.percent,
            "windows": [(spell_duration(one.size), one.limit, given.get(one.size)) for one in windows],
            "line": group.line(asked.service, now, names=asked.names),
        }
        if record is None:
            return shown | {"tried": None, "fault": GateError(f"there is no service {asked.service}")}
        try:
            return shown | {"tried": await self._lookups.tried(record, change)}
        except GateError as error:
            return shown | {"tried": None, "fault": error}

    async def _mesh(self, asked: Asked, _now: int) -> dict[str, Any]:
        try:
            shares = await self._lookups.shares()
        except GateError as error:
            return {"budgets": [], "fault": error}
        budgets: dict[str, list[Any]] = {}
        for share in shares:
            service, of_tenant, _ = share.budget.partition("/")
            name = share.budget if asked.names or not of_tenant else f"{service}, a tenant"
            budgets.setdefault(name, []).append(share)
        return {"budgets": [(name, held[:_SHARES], len(held)) for name, held in budgets.items()]}

    async def _brokers(self, _asked: Asked, _now: int) -> dict[str, Any]:
        try:
            return {"transactions": await self._lookups.transactions()}
        except GateError as error:
            return {"transactions": [], "fault": error}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gate.console"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "duration": words.duration, "rate": words.rate, "limit": words.limit, "number": words.number,
        "clock": words.clock, "text": words.text, "length_of_time": spell_duration, "soft": words.soft,
    }  # fmt: skip
    environment.globals |= {"limit_name": limit_name, "asset": asset, "KINDS": KINDS, "until": words.until}
    return environment
