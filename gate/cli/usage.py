"""`gate usage`."""

import asyncio
import json as jsonlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from cyclopts import CycloptsError
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gate.admission.model import EXPEDITED, MS, SECOND, LimitUsage, Usage
from gate.cli import commanded as told
from gate.cli.client import Client, Flag, OptionalService, Seconds, log_to_stderr, say
from gate.cli.usage_history import show_history
from gate.console.commanded import Commanded
from gate.errors import GateError
from gate.kafka.aio.client import Client as Connection
from gate.kafka.aio.reader import Reader
from gate.kafka.cluster import Cluster
from gate.kafka.connect import running
from gate.kafka.stalled_requests import undecided_now
from gate.limits import NEVER
from gate.observe.usage import decode, to_json
from gate.shard.records import Partition
from gate.text import printable

_READ_SECONDS: Final = 30.0
_OLD_SECONDS: Final = 10.0
_WATCH_SECONDS: Final = 2.0
_LATE_SECONDS: Final = 5.0  # undecided for less is on its way
_HINT: Final = "start one with `gate run --config FILE`, and check --bootstrap and --prefix"
_SAID: Final = 300  # characters of what somebody has written
_WIDTH: Final = 160  # where nobody's terminal says


def usage(
    service: OptionalService = None,
    *,
    json: Flag = False,
    watch: Flag = False,
    since: Seconds | None = None,
    client: Client | None = None,
) -> None:
    """Show limits, rate, tokens, window fill, backlog and ETA of each service and lane; with --since how it came.

    Beside it stands who paused it, set a limit, or acts on what waits, and why, as far as the audit may be read.

    Example: `gate usage payments`

    Example: `gate usage payments --since 2h`

    Parameters
    ----------
    service
        Show only this one.
    json
        Print one object for SERVICE, else a list of objects, sorted by service, with --watch a line each time. Their
        keys are those of the usage topic, and paused_by, paused_why, limit_set, group_limit_set and commands; times are
        unix ms.
    watch
        Show it anew every two seconds, until Ctrl-C.
    since
        What was offered and granted, waited and was allowed in that time up to now, such as 2h, 24h at the most. As
        JSON in steps of 10 seconds, of one second up to 15m, with `at_ms` at which each began; null is not known.
    """
    log_to_stderr()
    client = client or Client()
    if since is not None:
        if service is None or watch:
            raise CycloptsError(msg="--since shows one service once: name it, and leave out --watch")
        (newest,) = _shown(asyncio.run(newest_usage(client)), service)
        show_history(client, service, newest, since, json=json)
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH

    def show(known: Mapping[str, Usage], commanded: Commanded) -> None:
        if json:
            print(_json(known, commanded, service), flush=True)
        elif watch and console.is_terminal:
            live.update(_table(known, commanded, service), refresh=True)
        else:
            console.print(_table(known, commanded, service))

    if not watch:
        show(*asyncio.run(_look(client)))
        return
    with Live(console=console, auto_refresh=False, screen=console.is_terminal and not json) as live:
        asyncio.run(_watch(client, show))


async def _look(client: Client) -> tuple[Mapping[str, Usage], Commanded]:
    return await newest_usage(client), await told.commanded(client)


async def _watch(client: Client, show: Callable[[Mapping[str, Usage], Commanded], None]) -> None:
    while True:
        show(*await _look(client))
        await asyncio.sleep(_WATCH_SECONDS)


def _shown(known: Mapping[str, Usage], service: str | None) -> list[Usage]:
    if service is not None and service not in known:
        has = f"known are {', '.join(sorted(known))}" if known else "no gate has published any"
        raise GateError(f"there is no usage of service {service!r}; {has}", hint="check the name, and that a gate runs")
    return [known[service]] if service is not None else [known[name] for name in sorted(known)]


def _json(known: Mapping[str, Usage], commanded: Commanded, service: str | None) -> str:
    now = time.time_ns()
    records = [
        to_json(one) | told.as_json(commanded, one, now // MS, paused=_is_paused(one, now))
        for one in _shown(known, service)
    ]
    return jsonlib.dumps(records if service is None else records[0])


def _table(known: Mapping[str, Usage], commanded: Commanded, service: str | None) -> Table | str:
    shown = _shown(known, service)
    return table(shown, time.time_ns(), commanded) if shown else "no service has asked for anything yet"


async def newest_usage(client: Client) -> dict[str, Usage]:
    """Return the newest usage of each service."""
    await client.reach()
    topic = client.names.usage
    async with client.cluster() as cluster:
        there = await cluster.partitions()
        if topic not in there:
            raise GateError(
                f"no gate has published usage at {client.connection.bootstrap}: there is no topic {topic}", hint=_HINT
            )
        newest = await _published(client, topic, there[topic])
        now = time.time_ns()
        old = [usage for usage in newest.values() if now - usage.at > _OLD_SECONDS * SECOND]
        with suppress(GateError, KafkaError, OSError, TimeoutError):  # whoever may not ask sees what was published
            newest |= await _anew(client, cluster, old, there)
        return newest


async def _anew(
    client: Client, cluster: Cluster, usages: Iterable[Usage], there: Mapping[str, int]
) -> dict[str, Usage]:
    """Ask how much is undecided of services whose gate has not told for long: it may be away, or fail."""
    topics = {usage.service: client.names.requests(usage.service) for usage in usages}
    partitions = {
        service: [Partition(topic, number) for number in range(there[topic])]
        for service, topic in topics.items()
        if topic in there
    }
    if not partitions:
        return {}
    connection = Connection(**client.connection.access())
    try:
        async with asyncio.timeout(_READ_SECONDS):
            await connection.bootstrap()
            found = await undecided_now(
                Reader(connection), lambda some: cluster.marks(client.connection.group_id, some), partitions
            )
    finally:
        await connection.close()
    now = time.time_ns()
    return {
        usage.service: replace(
            usage,
            undecided=one.requests,
            undecided_age_seconds=0.0 if one.since_ns is None else max(0, now - one.since_ns) / SECOND,
            waiting=usage.waiting if one.requests else (),
        )
        for usage in usages
        if (one := found.get(usage.service)) is not None
    }


async def _published(client: Client, topic: str, count: int) -> dict[str, Usage]:
    consumer = AIOKafkaConsumer(
        **client.connection.access(), isolation_level="read_committed", auto_offset_reset="earliest"
    )
    newest: dict[str, Usage] = {}
    async with running(consumer), asyncio.timeout(_READ_SECONDS):
        partitions = [TopicPartition(topic, number) for number in range(count)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    _take(newest, record.key or b"", record.value)
    return newest


def _take(newest: dict[str, Usage], key: bytes, value: bytes | None) -> None:
    service = key.decode(errors="replace")
    if value is None:
        newest.pop(service, None)
        return
    try:
        newest[service] = decode(value)
    except ValueError as error:
        say(f"the usage of {printable(service)} can't be read ({error}); is the gate of another version?")


def table(usages: Iterable[Usage], now: int, commanded: Commanded | None = None) -> Table:
    """Return the services with their lanes as a table; `now` in ns tells how old each line is."""
    commanded = commanded or Commanded()
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("Service", no_wrap=True)
    for name in ("Admitted", "Limit", "Tokens", "Window", "Waiting", "Last one in"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("State")
    for usage in usages:
        rates = [limit.per_second for limit in usage.limits if limit.renews_at is None]
        shown.add_row(
            Text(printable(usage.service), style="bold"),
            f"{usage.requests_per_second:,.1f}/s",
            f"{min(rates):,.6g}/s" if rates else "none",
            "" if usage.tokens is None else f"{usage.tokens:,.6g}",
            f"{usage.window_fill:.0%}" if any(".window" in limit.name for limit in usage.limits) else "",
            f"{usage.backlog:,}",
            _eta(usage, usage.eta_seconds) if usage.backlog else "",
            _state(usage, now),
        )
        for text in told.in_words(commanded, usage, now // MS, paused=_is_paused(usage, now)):
            shown.add_row(*[""] * 7, Text(printable(text, _SAID), "yellow"))
        for lane in usage.lanes if len(usage.lanes) > 1 else ():
            turn = "goes first" if lane.name == EXPEDITED else f"weight {lane.weight:g}"
            label, weight = Text(f"  {printable(lane.name)}", style="dim"), Text(turn, style="dim")
            shown.add_row(label, "", "", "", "", f"{lane.backlog:,}", _eta(usage, lane.eta_seconds), weight)
        for limit in usage.limits:
            if limit.renews_at is not None:
                quota = Text(f"  {printable(limit.name.removeprefix(f'{usage.service}.'))}", style="dim")
                shown.add_row(quota, "", "", "", f"{limit.usage:.0%}", "", "", _quota(limit, now))
        if usage.running is not None:
            row = "admitted, and not told to be done"
            shown.add_row(Text("  running", "dim"), "", "", "", "", f"{usage.running:,}", "", Text(row, "dim"))
        if usage.scheduled and usage.next_start is not None:
            text = f"the first in {_duration(max(0, usage.next_start - now) / SECOND)}"
            shown.add_row(Text("  scheduled", "dim"), "", "", "", "", f"{usage.scheduled:,}", "", Text(text, "dim"))
        for name, count, text in _standing(usage):
            style = "dim" if _is_explained(usage, now) else "red"
            shown.add_row(Text(f"  {name}", style), "", "", "", "", count, "", Text(text, style))
    return shown


def _quota(limit: LimitUsage, now: int) -> Text:
    renews = _duration(max(0, (limit.renews_at or 0) - now) / SECOND)
    return Text(f"{limit.left:,} of {limit.capacity:,} left, renews in {renews}", style="" if limit.left else "yellow")


def _standing(usage: Usage) -> Iterator[tuple[str, str, str]]:
    """Yield what of a service does not go on: label, how many, and in words."""
    if usage.undecided and (usage.undecided_age_seconds or 0) > _LATE_SECONDS:
        text = f"in the request topic, the oldest for {_duration(usage.undecided_age_seconds)}"
        yield "undecided", f"{usage.undecided:,}", text
    for one in usage.waiting:
        place = f"{one.get('topic')}-{one.get('partition')} at offset {one.get('offset')}"
        yield "stands", "", printable(f"{place}: {one.get('why')}; {one.get('remedy')}")


def _is_explained(usage: Usage, now: int) -> bool:
    """Tell whether a limit or a pause is why something waits, and no partition stands."""
    return not usage.waiting and (_is_paused(usage, now) or _is_blocked(usage, now) or usage.binding is not None)


def _is_paused(usage: Usage, now: int) -> bool:
    return usage.paused_until is not None and usage.paused_until > now


def _state(usage: Usage, now: int) -> Text:
    if usage.paused_until is not None and usage.paused_until > now:
        state = Text(f"paused {_until(usage.paused_until, now)}", style="yellow")
    elif _is_blocked(usage, now):
        state = Text(f"blocked {_until(usage.blocked_until, now, 'cleared')}", style="yellow")
    elif usage.breach_since is not None:
        binds = usage.binding or usage.last_refusal
        limit = f"{printable(binds.limit)}, " if binds else ""
        state = Text(f"breach: {limit}{_duration((usage.at - usage.breach_since) / SECOND)}", style="red")
    elif usage.binding is not None:
        state = Text(f"waits for {printable(usage.binding.limit)}", style="yellow")
    elif any(_standing(usage)):
        state = Text("does not go on", style="red")
    else:
        state = Text("within limits", style="green")
    if usage.tenants_paused > 1:
        state.append(f"; {usage.tenants_paused} tenants are paused", style="yellow")
    for paused in usage.paused_tenants if usage.tenants_paused == 1 else ():
        name = printable(paused.tenant)
        state.append(f"; tenant {name} is paused {_until(paused.until, now)}", style="yellow")
    if (age := (now - usage.at) / SECOND) > _OLD_SECONDS:
        state.append(f" (as of {_duration(age)} ago)", style="dim")
    return state


def _is_blocked(usage: Usage, now: int) -> bool:
    return usage.blocked_until is not None and usage.blocked_until > now


def _until(end: int | None, now: int, ended: str = "resumed") -> str:
    """Say how long a pause lasts yet; None: until it is `ended` by somebody."""
    return f"until {ended}" if end is None or end >= NEVER else f"for {_duration(max(0, end - now) / SECOND)}"


def _eta(usage: Usage, seconds: float | None) -> str:
    for end, ended in ((usage.paused_until, "resumed"), (usage.blocked_until, "cleared")):
        if seconds is None and end is not None and end >= NEVER:
            return f"until {ended}"
    return _duration(seconds)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
