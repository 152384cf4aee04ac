"""What `/v1/policy` tells: what is in force for each service and group, and where each field comes from."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from gate.console.in_force import explained, in_force
from gate.console.records import Record
from gate.kafka.tenant_limits import limits_of
from gate.policy import Policy
from gate.policy.live import EXPLAINED
from gate.protocol.policies import LimitSet, LiveLimit, Published

_AT_ONCE: Final = 50  # services, between which others have a turn

Look = Callable[[Mapping[str, frozenset[str]], int], Awaitable[Mapping[str, Mapping[str, Published]]]]


class ToldPolicy:
    """Tells a policy, and keeps what it told until something of it changes: a limit, a service, or the file.

    `look` returns what is set live for tenants: those that the file names, those that stand for many, and some others.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._kept: dict[bool, tuple[tuple[Any, ...], bytes]] = {}  # by whether tenants are told
        self._turn = asyncio.Lock()

    async def policy(
        self, file: Policy, limited: Sequence[Record], services: Collection[str], now_ms: int, *, names: bool
    ) -> bytes:
        """Return what is in force at a time, as JSON. Raises GateError where tenants' limits can't be read."""
        versions = tuple(
            (one.service, one.limits_version, one.group_limits_version, *_holding(one, now_ms)) for one in limited
        )
        state = file.version, versions, frozenset(services)
        async with self._turn:
            kept = self._kept.get(names)
            if kept is None or kept[0] != state:
                kept = self._kept[names] = state, await self._tell(file, limited, services, now_ms, names=names)
            return kept[1]

    async def _tell(
        self, file: Policy, limited: Sequence[Record], services: Collection[str], now_ms: int, *, names: bool
    ) -> bytes:
        tenants: dict[str, Mapping[str, LiveLimit]] = {}
        if names and (wanted := {one.service: _named(file, one.service) for one in limited if one.tenants_limited}):
            tenants = {name: limits_of(found) for name, found in (await self._look(wanted, EXPLAINED)).items()}
        whole = in_force(file, limited, now_ms, tenants)
        told: dict[str, Any] = {}
        for number, service in enumerate(sorted({*services, *file.services})):
            told[service] = explained(whole, service, names=names)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        groups = {
            name: {field: origin.as_json() for field, origin in whole.explain_group(name).items()}
            for name in whole.groups
        }
        counts = {one.service: one.tenants_limited for one in limited if one.tenants_limited}
        answer = {
            "version": file.version, "file": file.name, "services": told, "groups": groups, "tenants_limited": counts,
        }  # fmt: skip
        return msgspec.json.encode(answer, enc_hook=str)  # policies hold fractions and paths


def _holding(record: Record, now_ms: int) -> tuple[bool, bool]:
    own, shared = record.limit_set, record.group_limit_set
    return _holds(own, now_ms), _holds(shared, now_ms)


def _holds(limit: LimitSet | None, now_ms: int) -> bool:
    return limit is not None and limit.holds(now_ms)


def _named(file: Policy, service: str) -> frozenset[str]:
    tenants = file.effective(service).tenants
    return frozenset() if tenants is None else frozenset(tenants.rules)
