"""`gate policy`: is a file right, what does it come to, and what would it change."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gate.cli.client import Client
from gate.cli.options import Flag
from gate.cli.pause import command
from gate.client import GateControl, ServiceLimits
from gate.errors import GateError
from gate.policy import Overflow, Policy, PolicyError, Problem, ServicePolicy, Settings, load_policy
from gate.policy.difference import OTHERS, Change, difference
from gate.policy.errors import did_you_mean
from gate.policy.live import LiveService
from gate.policy.notes import Note, notes_on
from gate.policy.origins import Origin
from gate.policy.settings import CONFIG
from gate.policy.wording import spell_duration, spell_rate, spell_spec, spell_value
from gate.protocol.policies import group_of
from gate.protocol.topics import Names, Templates, TopicNameError

LISTED = 200  # services or notes in a listing for people; --json has all
_PIPE_WIDTH = 100_000  # columns where nobody looks: a line of a table stays a line

File = Annotated[Path, Parameter(env_var=CONFIG)]

policy = App(
    name="policy",
    help="""Check, show and compare policy files.

    Example: `gate policy check policy.yaml`
    """,
)


@policy.command
def check(file: File, *, json: Flag = False) -> int:
    """Validate a policy file and list what each service gets.

    Exit code 1, with every error and its place in the file, if the file cannot be used.

    Example: `gate policy check policy.yaml`

    Parameters
    ----------
    file
        The policy file; by default GATE_CONFIG names it.
    json
        Print one JSON object: file, valid, version, services, notes; of one that can't be used, file, valid, problems.
    """
    try:
        checked = load_policy(file)
        _check_topics(checked)
    except PolicyError as error:
        if json:
            problems = [_problem(problem) for problem in error.problems]
            _print_json({"file": str(file), "valid": False, "problems": problems})
        else:
            print(error.render(), file=sys.stderr)
            if len(error.problems) > 1:
                print(f"{file}: {len(error.problems)} errors", file=sys.stderr)
        return 1
    notes = notes_on(checked)
    if json:
        services = [_summary(service) for service in _entries(checked)]
        said = [{"line": note.line, "field": note.field, "message": note.message} for note in notes]
        _print_json({"file": str(file), "valid": True, "version": checked.version, "services": services, "notes": said})
        return 0
    console = _console()
    _print_entries(console, checked)
    _print_notes(console, checked.name, notes)
    console.print(Text(f"{file}: valid, version {checked.version}"))
    return 0


@policy.command
def show(
    file: File, service: str | None = None, *, live: Flag = False, json: Flag = False, client: Client | None = None
) -> int:
    """Show what holds for each service, and where each field came from.

    Example: `gate policy show policy.yaml payments`

    Parameters
    ----------
    file
        The policy file; by default GATE_CONFIG names it.
    service
        One service only: any name, listed in the file or not, or a glob of the file.
    live
        With what was set while the gates run (`gate limit set`), which is read from the broker. Of the tenants for whom
        something is set, the first 200 of a service are shown; `gate limit show` has all.
    json
        Print one JSON object: file, version, settings, services, globs, others, groups; for SERVICE file, version,
        service, fields.
    """
    shown = load_policy(file)
    if live:
        shown = _with_live(shown, file, client or Client(), service)
    console = _console()
    if service is not None:
        fields = shown.explain_glob(service) if service in shown.globs else shown.explain(service)
        if not fields:
            close = did_you_mean(service, shown.services)
            raise GateError(
                f"{file}: no policy applies to service {service!r}",
                hint=close
                or "no entry and no glob matches it, and there are no defaults; `fail_open` decides about it",
            )
        if json:
            version = shown.version_of(service)
            _print_json({"file": str(file), "version": version, "service": service, "fields": _fields(fields)})
        else:
            _print_fields(console, service, fields)
        return 0
    services = {name: shown.explain(name) for name in dict.fromkeys((*shown.services, *_served(shown.live)))}
    globs = {pattern: shown.explain_glob(pattern) for pattern in shown.globs}
    groups = {name: shown.explain_group(name) for name in shown.groups}
    others = shown.explain_others()
    if json:
        _print_json(
            {
                "file": str(file),
                "version": shown.version,
                "settings": shown.settings.model_dump(mode="json"),
                "services": {name: _fields(fields) for name, fields in services.items()},
                "globs": {name: _fields(fields) for name, fields in globs.items()},
                "others": _fields(others),
                "groups": {name: _fields(fields) for name, fields in groups.items()},
            }
        )
        return 0
    for name, fields in (services | globs).items():
        _print_fields(console, name, fields)
    if others:
        _print_fields(console, OTHERS, others)
    for name, fields in groups.items():
        _print_fields(console, f"group {name}", fields)
    return 0


@policy.command
def diff(old: Path, new: Path, *, json: Flag = False) -> int:
    """Compare what two policy files come to, service by service; how they are written does not count.

    Example: `gate policy diff policy.yaml policy.new.yaml`

    Parameters
    ----------
    old
        The policy file before.
    new
        The policy file after.
    json
        Print one JSON object: old, new, changes.
    """
    before, after = load_policy(old), load_policy(new)
    changes = difference(before, after)
    if json:
        _print_json(
            {
                "old": {"file": str(old), "version": before.version},
                "new": {"file": str(new), "version": after.version},
                "changes": [_change(change) for change in changes],
            }
        )
        return 0
    console = _console()
    if changes:
        _print_changes(console, changes)
    versions = f"version {before.version} -> {after.version}" if before.version != after.version else "same version"
    count = f"{len(changes)} {'difference' if len(changes) == 1 else 'differences'}" if changes else "no difference"
    console.print(Text(f"{count} in effect, {versions}"))
    return 0


def _with_live(shown: Policy, file: Path, client: Client, service: str | None) -> Policy:
    """Return a policy with what is set live over it."""
    if client.config is None:
        client = replace(client, config=file)
    found = command(client, GateControl.all_limits)
    named = {name: limits for name, limits in found.items() if service in {None, name} or group_of(name) is not None}
    return shown.overlaid({name: _live(limits) for name, limits in named.items()})


def _served(live: Iterable[str]) -> list[str]:
    """Return the services among those for which something is set."""
    return sorted(name for name in live if group_of(name) is None)


def _live(limits: ServiceLimits) -> LiveService:
    tenants = {name: record.limit for name, record in limits.tenants.items() if record.limit is not None}
    return LiveService(limits.version, limits.limit, tenants)


def _check_topics(checked: Policy) -> None:
    settings: Settings = checked.settings
    try:
        names = Names(settings.prefix, Templates(**settings.topics.model_dump()))
        for service in checked.services:
            names.check_service_name(service)
    except TopicNameError as error:
        span = checked.root.locate(("topics",), key=True)
        text = Path(checked.name).read_text(encoding="utf-8-sig", errors="replace")
        raise PolicyError(checked.name, [Problem(str(error), "topics", span)], text) from None


def _entries(checked: Policy) -> list[ServicePolicy]:
    return [*map(checked.effective, checked.services), *map(checked.glob, checked.globs)]


# -- for people --------------------------------------------------------------------------------------------------------


def _console() -> Console:
    """Fit the terminal; where there is none, leave every line whole."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", safe_box=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str, style: str = "") -> None:
    table.add_row(*(Text(cell) for cell in cells), style=style)


def _print_entries(console: Console, checked: Policy) -> None:
    entries = _entries(checked)
    shown = entries[:LISTED]
    rest = checked.others()
    table = _table("service", "limit", "and")
    for entry in [*shown, *([] if rest is None else [rest])]:
        _row(table, entry.name or OTHERS, _limit(entry), "; ".join(_more(entry)))
    if table.row_count:
        console.print(table)
        console.print()
    if len(entries) > len(shown):
        console.print(f"... and {len(entries) - len(shown)} more services; --json lists all\n")
    if checked.groups:
        table = _table("group", "limit")
        for name, group in checked.groups.items():
            _row(table, name, spell_spec(group.spec))
        console.print(table)
        console.print()


def _limit(entry: ServicePolicy) -> str:
    return "blocked" if entry.blocked_until else spell_spec(entry.spec)


def _more(entry: ServicePolicy) -> Iterable[str]:
    """Say on how a service is treated, beside its limit."""
    if entry.overflow is Overflow.DELAY and entry.max_delay is not None:
        yield f"delay up to {spell_duration(entry.max_delay)}"
    else:
        yield entry.overflow.value
    if entry.group is not None:
        yield f"group {entry.group}"
    if len(entry.lanes) > 1:
        yield f"lanes {', '.join(f'{lane} {float(weight):g}' for lane, weight in entry.lanes.items())}"
    if entry.tenants is not None:
        names = list(entry.tenants.rules)
        yield f"tenants {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    for limit in (entry.in_flight, entry.spec.running):
        if limit is not None:
            yield limit.words(spell_rate, spell_duration)
    if entry.shadow:
        yield "shadow"


def _print_notes(console: Console, name: str, notes: tuple[Note, ...]) -> None:
    for note in notes[:LISTED]:
        console.print(Text(f"{name}:{note.line}: note: {note.field}: {note.message}", style="yellow"), soft_wrap=True)
    if len(notes) > LISTED:
        console.print(f"... and {len(notes) - LISTED} more notes; --json lists all")
    if notes:
        console.print()


def _print_fields(console: Console, title: str, fields: Mapping[str, Origin]) -> None:
    table = _table("field", "value", "from", "line")
    for name, origin in fields.items():
        line = "" if origin.line is None else str(origin.line)
        style = "" if origin.line is not None else "dim"
        _row(table, name, spell_value(origin.value), origin.source, line, style=style)
    console.print(Text(title, style="bold cyan"))
    console.print(table)
    console.print()


def _print_changes(console: Console, changes: Iterable[Change]) -> None:
    table = _table("service", "field", "before", "after", "from")
    last = ""
    for change in changes:
        name = f"group {change.name}" if change.kind == "group" else change.name
        source = change.after.source if change.after else "no longer there"
        _row(table, "" if name == last else name, change.field, _side(change.before), _side(change.after), source)
        last = name
    console.print(table)
    console.print()


def _side(origin: Origin | None) -> str:
    return "-" if origin is None else spell_value(origin.value)


# -- for programs ------------------------------------------------------------------------------------------------------


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "line": problem.span.line if problem.span else None,
        "column": problem.span.column if problem.span else None,
        "field": problem.field,
        "message": problem.message,
        "hint": problem.hint or None,
    }


def _fields(fields: Mapping[str, Origin]) -> dict[str, Any]:
    return {name: origin.as_json() for name, origin in fields.items()}


def _change(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "name": change.name,
        "field": change.field,
        "before": change.before.value if change.before else None,
        "after": change.after.value if change.after else None,
        "source": change.after.source if change.after else None,
    }


def _summary(entry: ServicePolicy) -> dict[str, Any]:
    return {
        "name": entry.name,
        "rate": None if entry.spec.rate is None else spell_rate(entry.spec.rate),
        "burst_size": None if entry.spec.rate is None else entry.spec.burst,
        "windows": [{"limit": window.limit, "size": spell_duration(window.size)} for window in entry.spec.windows],
        "blocked": bool(entry.blocked_until),
        "limits": [limit.words(spell_rate, spell_duration) for limit in entry.spec.limits],
        "overflow": str(entry.overflow),
        "max_delay": None if entry.max_delay is None else spell_duration(entry.max_delay),
        "lanes": {lane: float(weight) for lane, weight in entry.lanes.items()},
        "default_lane": entry.default_lane,
        "group": entry.group,
        "max_in_flight": entry.max_in_flight,
        "max_running": None if entry.spec.running is None else entry.spec.running.capacity,
        "running_timeout": None if entry.running_timeout is None else spell_duration(entry.running_timeout),
        "worker_group": entry.worker_group,
        "shadow": entry.shadow,
        "near_limit": entry.near_limit,
        "max_tenants": entry.max_tenants,
        "keep_released": None if entry.keep_released is None else spell_duration(entry.keep_released),
        "tenants": [] if entry.tenants is None else list(entry.tenants.rules),
    }
