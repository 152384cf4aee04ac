"""`gate pause`, and what it shares with `gate resume`: commands on the control topic."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Final, TypeVar

from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from gate.cli.client import Client, Duration, Flag, Service, log_to_stderr, read_seconds
from gate.cli.output import tell
from gate.cli.times import is_moment, moment
from gate.client import GateControl
from gate.errors import GateError
from gate.protocol.headers import TENANT, Malformed, read_options
from gate.text import timestamp


def _is_tenant(_type: object, value: str | None) -> None:
    if value == "":
        raise ValueError("--tenant is empty: name the tenant, or leave it out for the whole service")
    if value is not None and isinstance(options := read_options([(TENANT, value.encode())]), Malformed):
        raise ValueError(str(options))


T = TypeVar("T")
_END: Final = ("Parameters", Group(validator=mutually_exclusive))
Tenant = Annotated[str | None, Parameter(validator=_is_tenant)]


def pause(
    service: Service,
    *,
    until: Annotated[str | None, Parameter(group=_END, validator=is_moment)] = None,
    for_: Annotated[Duration | None, Parameter(name="--for", group=_END, converter=read_seconds)] = None,
    tenant: Tenant = None,
    reason: str = "",
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Admit nothing of a service, or of one of its tenants, for a time.

    What comes meanwhile waits, as under any limit, and is told when it will be admitted. Of several
    pauses the longest counts. Without --until and --for it lasts until `gate resume`, which ends all of them.

    Example: `gate pause payments --for 15m`

    Parameters
    ----------
    service
        The service.
    until
        When to go on: 18:30, or 2026-01-31T18:30:00Z; without an offset in local time.
    for_
        How long: 90s, 15m, 1h30m.
    tenant
        Only the requests of this tenant.
    reason
        Why, for the audit.
    json
        Print one JSON object: service, tenant (null: all), paused_until_ms (unix ms; null: until resumed), command_id.
    """
    now = datetime.now(UTC)
    end = moment(until, now) if until is not None else None if for_ is None else now + timedelta(seconds=for_)
    if end is not None and end <= now:
        raise GateError(f"{until or 'a pause of 0 s'} is over already", hint="give a later time; see `gate resume`")
    give = partial(GateControl.pause, service=service, until=end, tenant=tenant or "", reason=reason)
    known = command(client or Client(), give)
    when = "until resumed" if end is None else f"until {timestamp(end)}"
    until_ms = None if end is None else int(end.timestamp() * 1000)
    told = {"service": service, "tenant": tenant, "paused_until_ms": until_ms, "command_id": known}
    tell(f"{who(service, tenant)} is paused {when}", json=json, **told)


def who(service: str, tenant: str | None) -> str:
    """Name what a command is about."""
    return service if tenant is None else f"tenant {tenant} of {service}"


def command(client: Client, give: Callable[[GateControl], Awaitable[T]]) -> T:
    """Return what `give` does with a control. Raises GateError where there is no gate, and for an unknown service."""
    log_to_stderr()
    return asyncio.run(_command(client, give))


async def _command(client: Client, give: Callable[[GateControl], Awaitable[T]]) -> T:
    await client.reach()
    async with GateControl(client.connection) as control:
        return await give(control)
