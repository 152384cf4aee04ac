"""`gate limit`: limits set while the gate runs."""

import json as jsonlib
import sys
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gate.cli.backlog import end
from gate.cli.client import Client, Flag, Group, OptionalService, Seconds, Service, say
from gate.cli.limit_files import read_rows, write_rows
from gate.cli.output import interruptible
from gate.cli.pause import Tenant, command, who
from gate.client import Answer, AnswerState, GateControl, LiveLimit, ServiceLimits
from gate.errors import GateError
from gate.protocol.policies import GROUP, called, group_of
from gate.text import moment, printable

_SHOWN: Final = 50  # tenants, for people; --json has all
_WIDTH: Final = 100_000  # columns where nobody looks: a line of a table stays a line


Count = Annotated[int | None, Parameter(validator=Number(gte=1))]
Version = Annotated[int | None, Parameter(validator=Number(gte=0))]

limit = App(
    name="limit",
    help="""Set limits while the gate runs, over the policy file: of a service, of one of its tenants, or of a group.

    They hold within a second, for what waits as well, and through restarts; with --for they end by themselves.

    Example: `gate limit set payments --rps 50 --burst 80 --for 30m --reason campaign`
    """,
)


@limit.command(name="set")
def set_(
    service: OptionalService = None,
    *,
    group: Group = None,
    rps: str | None = None,
    burst: Count = None,
    window: Annotated[list[str] | None, Parameter(negative="")] = None,
    window_limit: Count = None,
    max_running: Count = None,
    quota: Annotated[list[str] | None, Parameter(negative="")] = None,
    tenant: Tenant = None,
    for_: Annotated[Seconds | None, Parameter(name="--for")] = None,
    reason: str = "",
    if_version: Version = None,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Set what a service, one of its tenants, or a group of services, may use.

    What is not given is as the policy file says, also where something was set for it before.

    Example: `gate limit set payments --rps 50 --burst 80 --for 30m --reason campaign`

    Parameters
    ----------
    service
        The service.
    group
        In place of a service: what the services of this group may use together.
    rps
        Requests per second: 50, or 10/min. 0 blocks: what comes is rejected or held, as `overflow` says; with --for it
        may wait for the end.
    burst
        So many at once.
    window
        So many in any interval of a length: 100/60s. May be given several times, and holds beside the window of the
        policy file's `window_size`; "none": without the further `windows` of the file. A length alone, as in 60s, is
        another `window_size`.
    window_limit
        So many in each window of `window_size`.
    max_running
        So many admitted and not done at a time, as workers tell.
    quota
        So many in each day, week, month or year: 5000/day, or "100000/month Europe/Berlin". May be given several times;
        "none": without the quotas of the policy file.
    tenant
        For this tenant alone; `default`, or a glob such as "bank-*", for those that others do not name.
    for_
        For how long: 90s, 30m, 1h30m. Then the policy file holds again. Without it, until it is cleared.
    reason
        Why, for the audit.
    if_version
        Only if the limits of the service are at this version (`gate limit show`): nobody's change is lost.
    json
        Print one JSON object: the answer, with state and version.
    """
    if (rps, burst, window, window_limit, max_running, quota) == (None,) * 6:
        raise CycloptsError(
            msg="no limit is given: give --rps, --burst, --window, --window-limit, --max-running or --quota"
        )
    sizes, windows = _windows(window or [])
    whose = _whose(service, group, tenant)

    def give(control: GateControl) -> Awaitable[Answer]:
        return control.set_limit(
            service or "", group=group or "", requests_per_second=rps, burst_size=burst, window_size=sizes,
            window_limit=window_limit, max_running=max_running, quotas=None if quota is None else ", ".join(quota),
            windows=windows, tenant=tenant or "", for_=for_, reason=reason, if_version=if_version,
        )  # fmt: skip

    _tell(give, client, f"limits of {whose} are set", as_json=json)


@limit.command
def clear(
    service: OptionalService = None,
    *,
    group: Group = None,
    tenant: Tenant = None,
    all_: Annotated[Flag, Parameter(name="--all")] = False,
    reason: str = "",
    if_version: Version = None,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Let hold again what the policy file says.

    Example: `gate limit clear payments --tenant acme`

    Parameters
    ----------
    service
        The service.
    group
        In place of a service: this group.
    tenant
        For this tenant alone.
    all_
        For the service and all of its tenants.
    reason
        Why, for the audit.
    if_version
        Only if the limits of the service are at this version.
    json
        Print one JSON object: the answer, with state and version.
    """
    if tenant is not None and all_:
        raise CycloptsError(msg="--tenant and --all are given: leave one of them out")
    if group is not None and all_:
        raise CycloptsError(msg="--all is of a service and its tenants, and a group has none: leave it out")
    whose = _whose(service, group, tenant)

    def give(control: GateControl) -> Awaitable[Answer]:
        return control.clear_limit(
            service or "", group=group or "", tenant=tenant or "", everything=all_, reason=reason,
            if_version=if_version,
        )  # fmt: skip

    _tell(give, client, f"limits of {whose} are as the policy file says", as_json=json)


@limit.command
def show(
    service: OptionalService = None,
    *,
    group: Group = None,
    tenant: Tenant = None,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Show what is set for a service and its tenants, or for a group, until when, by whom and why.

    Example: `gate limit show payments`

    Parameters
    ----------
    service
        The service.
    group
        In place of a service: this group.
    tenant
        Only this tenant.
    json
        Print one JSON object: service (of a group group:NAME), version, limit, tenants (name to limit, version, at_ms,
        who, reason, command).
    """
    _whose(service, group, tenant)
    found = command(client or Client(), lambda control: control.limits(service or "", group=group or ""))
    names = list(found.tenants) if tenant is None else [name for name in (tenant,) if name in found.tenants]
    if json:
        print(jsonlib.dumps(_described(found, names)), flush=True)
        return
    _print(found, names, whole=tenant is None)


@limit.command(name="import")
def import_(
    file: Path | None = None,
    *,
    service: OptionalService = None,
    reason: str = "",
    if_version: Version = None,
    abort: str = "",
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Set the limits of all tenants of a service from a file: these and no others, as a whole or not at all.

    Columns of a CSV file, or fields of JSON lines: service, tenant, requests_per_second, burst_size, window_size,
    window_limit, max_running, quotas, windows; what is empty is as the policy file says. Each service is one import.

    Example: `gate limit import tenants.csv --service payments --reason contracts`

    Parameters
    ----------
    file
        NAME.csv with a line of names first, or NAME.jsonl.
    service
        The service, where the file names none.
    reason
        Why, for the audit.
    if_version
        Only if the limits of the service are at this version; of a file with one service.
    abort
        End the import of this id instead, which must not be in force yet: nothing of it will be. Takes --service.
    json
        Print one JSON object a service: the answer, with state, done, of, cleared (tenants whose limits the import took
        away) and version.
    """
    if abort:
        if file is not None or service is None:
            raise CycloptsError(msg="--abort ID takes the service, --service NAME, and no file")
        end(client, service, abort, reason, as_json=json, done=f"import {abort} is aborted; nothing of it was in force")
        return
    if file is None:
        raise CycloptsError(msg="no file is given: NAME.csv or NAME.jsonl")
    services = read_rows(file, service)
    if if_version is not None and len(services) > 1:
        raise CycloptsError(msg=f"--if-version is of one service, and {file} has {len(services)}")
    for number, (name, rows) in enumerate(services.items()):
        known = uuid.uuid4().hex
        with interruptible(lambda: _interrupted(list(services), number, known)):  # noqa: B023 - it is called at once
            answer = command(client or Client(), partial(_import, name, rows, reason, if_version, known))
        if answer.state is AnswerState.ABORTED:
            raise GateError(f"the import of limits of {name} was {answer.why}", hint="nothing of it was in force")
        others = f", and those of {answer.cleared} others are cleared" if answer.cleared else ""
        done = f"limits of {answer.of} tenants of {name} are set{others}; version {answer.version}"
        print(msgspec.json.encode(answer).decode() if json else done, flush=True)


def _import(
    service: str, rows: dict[str, LiveLimit], reason: str, if_version: int | None, known: str, control: GateControl
) -> Awaitable[Answer]:
    def told(answer: Answer) -> None:
        if answer.state is AnswerState.TAKEN:
            say(f"import {answer.command} is taken; until all of it holds nothing of it does")
        elif answer.state is AnswerState.WORKING and sys.stderr.isatty():
            say(f"{answer.done} of {answer.of} tenants of {service}")

    return control.import_limits(service, rows, reason=reason, if_version=if_version, on_answer=told, command_id=known)


def _interrupted(services: list[str], number: int, known: str) -> tuple[str, str]:
    """Say what stands after Ctrl-C amid the import of one of these services, and how to go on."""
    name, done, left = services[number], services[:number], services[number + 1 :]
    stands = "holds as a whole or not at all: if all was sent, gates go on by themselves"
    if done:
        stands += f"; that of {', '.join(done)} holds"
    if left:
        stands += f"; that of {', '.join(left)} was not begun"
    ends = f"`gate limit import --service {name} --abort {known}`"
    hint = f"give the same command again, which comes to the same; or end it by {ends}, as long as it does not hold"
    return f"interrupted; import {known} of limits of {name} {stands}", hint


@limit.command
def export(service: Service, *, json: Flag = False, client: Client | None = None) -> None:
    """Print the limits that are set for the tenants of a service, as CSV that `gate limit import` takes.

    Example: `gate limit export payments > tenants.csv`

    Parameters
    ----------
    service
        The service.
    json
        Print one JSON object a line: service, tenant and what is set.
    """
    with interruptible(lambda: (f"interrupted; the limits of {service} are not printed as a whole", "give it again")):
        found = command(client or Client(), lambda control: control.limits(service))
        if found.importing:
            raise GateError(f"an import of limits of {service} is being published", hint="try again in some seconds")
        write_rows(service, found.tenants, sys.stdout, as_json=json)
        sys.stdout.flush()


def _windows(given: list[str]) -> tuple[str | None, str | None]:
    """Return of what was given as windows the length alone, and those with a limit. Raises CycloptsError."""
    sizes = [one for one in given if "/" not in one and one != "none"]
    windows = [one for one in given if one not in sizes]
    if len(sizes) > 1:
        raise CycloptsError(
            msg=f"--window {sizes[0]} and --window {sizes[1]} are two lengths: give limits, as in 100/60s"
        )
    return (sizes[0] if sizes else None), ", ".join(windows) or None


def _whose(service: str | None, group: str | None, tenant: str | None) -> str:
    """Name whose limits a command is about. Raises CycloptsError unless that is one service or group."""
    if (service is None) == (group is None):
        raise CycloptsError(msg="name one of both: SERVICE, or --group NAME")
    if group is None:
        return who(service or "", tenant)
    if tenant is not None:
        raise CycloptsError(msg="--tenant is of a service, and a group has none: name the service, or leave it out")
    return called(f"{GROUP}{group}")


def _tell(give: Callable[[GateControl], Awaitable[Answer]], client: Client | None, done: str, *, as_json: bool) -> None:
    answer = command(client or Client(), give)
    print(msgspec.json.encode(answer).decode() if as_json else f"{done}; version {answer.version}", flush=True)


def _described(found: ServiceLimits, names: list[str]) -> dict[str, Any]:
    tenants = {name: msgspec.to_builtins(found.tenants[name]) for name in names}
    return {
        "service": found.service,
        "version": found.version,
        "limit": None if found.limit is None else msgspec.to_builtins(found.limit),
        "tenants": tenants,
    }


def _print(found: ServiceLimits, names: list[str], *, whole: bool) -> None:
    whole_one = "(the service)" if group_of(found.service) is None else "(the group)"
    rows = [("", found.own)] if whole and found.limit is not None else []
    rows += [(name, found.tenants[name]) for name in names[:_SHOWN]]
    if rows:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", safe_box=True)
        for column in ("tenant", "limit", "until", "by", "reason"):
            table.add_column(column, overflow="fold")
        for name, record in rows:
            assert record is not None
            assert record.limit is not None
            cells = (name or whole_one, _spelt(record.limit), _end(record.limit), record.who, record.reason)
            table.add_row(*(Text(printable(cell)) for cell in cells))
        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
        console.print(table)
    if len(names) > _SHOWN:
        print(f"... and {len(names) - _SHOWN} more tenants; --json has all")
    nothing = "" if rows else "nothing is set; "
    print(f"{nothing}limits of {called(found.service)} are at version {found.version}", flush=True)


def _spelt(limit: LiveLimit) -> str:
    return ", ".join(f"{name}: {value}" for name, value in limit.fields.items())


def _end(limit: LiveLimit) -> str:
    return "" if limit.until_ms is None else moment(limit.until_ms)
