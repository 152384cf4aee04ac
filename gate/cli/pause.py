"""`gate pause`, and what it shares with `gate resume`: commands on the control topic."""

import asyncio
import re
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from gate.cli.client import Client, Service, log_to_stderr
from gate.cli.usage import newest_usage
from gate.client.text import timestamp
from gate.errors import GateError
from gate.kafka.access import access
from gate.kafka.connect import running
from gate.protocol import control
from gate.protocol.headers import TENANT, Malformed, read_wishes

_DURATION: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>ms|s|m|min|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SEND_SECONDS: Final = 10.0
_NAMED: Final = 20  # services, to somebody who named another


def _duration(text: str) -> float:
    """Read a duration in seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no duration; give a number and ms, s, m, h or d, as in 90s or 1.5h")
    return float(found["number"]) * _SECONDS[found["unit"]]


def _moment(text: str, now: datetime) -> float:
    """Read a time as unix seconds: ISO 8601, or HH:MM for the next time the local clock shows it. Raises ValueError."""
    try:
        if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text):
            local = now.astimezone()
            clock = datetime.strptime(text, "%H:%M:%S" if text.count(":") == 2 else "%H:%M")  # noqa: DTZ007 - time of day
            moment = local.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
            return moment.timestamp() + (86400 if moment <= local else 0)
        return datetime.fromisoformat(text).timestamp()  # without an offset, local time
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time; give 18:30, or 2026-01-31T18:30:00Z") from None


def _is_duration(_type: object, value: str | None) -> None:
    if value is not None:
        _duration(value)


def _is_moment(_type: object, value: str | None) -> None:
    if value is not None:
        _moment(value, datetime.now(UTC))


def _is_tenant(_type: object, value: str | None) -> None:
    if value is not None and isinstance(wishes := read_wishes([(TENANT, value.encode())]), Malformed):
        raise ValueError(str(wishes))


_END: Final = ("Parameters", Group(validator=mutually_exclusive))
Tenant = Annotated[str | None, Parameter(validator=_is_tenant)]


def pause(
    service: Service,
    *,
    until: Annotated[str | None, Parameter(group=_END, validator=_is_moment)] = None,
    for_: Annotated[str | None, Parameter(name="--for", group=_END, validator=_is_duration)] = None,
    tenant: Tenant = None,
    client: Client | None = None,
) -> None:
    """Admit nothing of a service, or of one of its tenants, for a time.

    What comes meanwhile waits, as under any limit, and is told when it will be admitted. Of several
    pauses the longest counts; `gate resume` ends them. Without --until and --for it lasts until then.

    Example: `gate pause payments --for 15m`

    Parameters
    ----------
    service
        The service.
    until
        When to go on: 18:30, or 2026-01-31T18:30:00Z; without an offset in local time.
    for_
        How long: 90s, 15m, 1.5h.
    tenant
        Only the requests of this tenant.
    """
    now = datetime.now(UTC)
    end: float | None = None
    if until is not None:
        end = _moment(until, now)
    elif for_ is not None:
        end = now.timestamp() + _duration(for_)
    if end is not None and end <= now.timestamp():
        raise GateError(f"{until or for_} is over already", hint="give a time to come; `gate resume` ends a pause")
    until_ms = control.FOREVER_MS if end is None else min(int(end * 1000), control.FOREVER_MS)
    command(client or Client(), service, control.PauseUntil(until_ms, tenant or ""))
    when = "until resumed" if end is None else f"until {_spelt(end)}"
    print(f"{who(service, tenant)} is paused {when}")


def _spelt(seconds: float) -> str:
    try:
        return timestamp(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError):
        return "the end of time"


def who(service: str, tenant: str | None) -> str:
    """Name what a command is about."""
    return service if tenant is None else f"tenant {tenant} of {service}"


def command(client: Client, service: str, what: control.Command) -> None:
    """Write a command to the control topic. Raises GateError where no gate has made it, and for an unknown service."""
    log_to_stderr()
    asyncio.run(_command(client, service, what))


async def _command(client: Client, service: str, what: control.Command) -> None:
    await client.reach()
    topic = client.names.control
    async with client.cluster() as cluster:
        there = await cluster.partitions()
    if topic not in there:
        raise GateError(f"there is no topic {topic}: no gate has run with this prefix", hint="start one: gate run")
    services = {name for one in there if (name := client.names.service_of(one)) is not None}
    if service not in services and client.names.usage in there:  # request topics may be spelt in a way of their own
        services |= (await newest_usage(client)).keys()
    known = sorted(services)
    if service not in known:  # no gate would take it in
        more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
        told = f"known are {', '.join(known[:_NAMED])}{more}" if known else "there is none yet"
        raise GateError(
            f"there is no service {service!r}; {told}",
            hint=f"check the name; it needs {client.names.requests(service)}",
        )
    producer = AIOKafkaProducer(**access(client.bootstrap), enable_idempotence=True)
    by = [(control.BY, control.OPERATOR)]
    send = partial(producer.send_and_wait, topic, control.encode(what), service.encode(), partition=0, headers=by)
    async with running(producer):
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await send()
        except (KafkaError, TimeoutError) as error:
            why = str(error) or f"no answer within {_SEND_SECONDS:g} s"
            raise GateError(f"the broker at {client.bootstrap} did not take the command: {why}") from error
