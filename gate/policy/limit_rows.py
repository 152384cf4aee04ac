"""Rows of tenants' limits, CSV or JSON lines, as an import takes them and an export gives them."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from gate.errors import GateError
from gate.policy.live import check, check_tenant
from gate.protocol.policies import FIELDS, LiveLimit, Published

COLUMNS: Final = ("service", "tenant", *FIELDS)
_SHOWN: Final = 100  # characters of what is wrong


def rows_of(source: Iterable[str], name: str, service: str | None, *, as_csv: bool) -> dict[str, dict[str, LiveLimit]]:
    """Return what a file of that name says, by service and tenant. Raises GateError that names the line.

    One without rows is refused: mostly what should have written it has failed, and it would clear all tenants' limits.
    """
    found: dict[str, dict[str, LiveLimit]] = {}
    try:
        for line, row in _csv(source) if as_csv else _json_lines(source):
            try:
                _take(found, row, service)
            except GateError as error:
                raise GateError(f"{name}:{line}: {error}", hint=error.hint) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise GateError(f"{name} can't be read: {error}", hint="give a CSV file, or JSON lines") from None
    if not found:
        clear = f'`gate limit clear {service or "SERVICE"} --all`, or {{"command": "clear-limit", "all": true}}'
        hint = f"to clear those of a service and all its tenants: {clear}"
        raise GateError(f"{name} has no rows, and so the limits of no tenant", hint=hint)
    return found


def as_rows(service: str, tenants: Mapping[str, Published]) -> Iterator[Mapping[str, str | int]]:
    """Yield what is set, in the order of names. What ends by itself is not among it: a file has no place for that."""
    for name, record in sorted(tenants.items()):
        if record.limit is not None and record.limit.until_ms is None:
            yield {"service": service, "tenant": name, **record.limit.fields}


def _csv(source: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(source)
    names = next(reader, [])
    if unknown := [name for name in names if name not in COLUMNS]:
        raise GateError(f"unknown column {_cut(unknown[0])}", hint=f"known are {', '.join(COLUMNS)}")
    if len(set(names)) < len(names):
        raise GateError("a column comes twice", hint="which of them counts?")
    for row in reader:
        if row:
            if len(row) != len(names):
                raise GateError(f"line {reader.line_num} has {len(row)} columns, and the first one {len(names)}")
            yield reader.line_num, dict(zip(names, row, strict=True))


def _json_lines(source: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(source, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number may have too many digits, and lists lie too deep
            raise GateError(f"line {number} is no JSON: {error}", hint="name a CSV file NAME.csv") from None
        if not isinstance(row, dict) or (unknown := [name for name in row if name not in COLUMNS]):
            what = unknown[0] if isinstance(row, dict) else row
            raise GateError(f"line {number}: unknown field {_cut(what)}", hint=f"known are {', '.join(COLUMNS)}")
        yield number, row


def _take(found: dict[str, dict[str, LiveLimit]], row: Mapping[str, Any], service: str | None) -> None:
    name, tenant = row.get("service") or service, row.get("tenant")
    if not name or (service is not None and name != service):
        raise GateError(f"the service is {_cut(name)}", hint="give a column `service`, or --service NAME")
    if not isinstance(tenant, str) or not isinstance(name, str):
        raise GateError("no tenant is named", hint="give a column `tenant`")
    rows = found.setdefault(name, {})
    if tenant in rows:
        raise GateError(f"tenant {_cut(tenant)} comes twice", hint="name each tenant once")
    check_tenant(tenant)
    rows[tenant] = _limit(*(_text(row.get(field)) for field in FIELDS))


def _cut(value: object) -> str:
    """Return how a value is shown that may be as long as a file."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


@lru_cache(maxsize=4096)
def _limit(
    rate: str | None,
    burst: str | None,
    size: str | None,
    limit: str | None,
    running: str | None,
    quotas: str | None,
    windows: str | None,
) -> LiveLimit:
    """Return a limit; many tenants have the same one."""
    made = LiveLimit(
        rate, _count("burst_size", burst), size, _count("window_limit", limit),
        max_running=_count("max_running", running), quotas=quotas, windows=windows,
    )  # fmt: skip
    check(made)
    return made


def _count(name: str, value: str | None) -> int | None:
    try:
        return None if value is None else int(value)
    except ValueError:
        raise GateError(f"{name} is {_cut(value)}", hint="give a whole number") from None
