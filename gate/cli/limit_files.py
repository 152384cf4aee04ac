"""Files of tenants' limits, as `gate limit import` reads and `gate limit export` writes them."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from gate.client import LiveLimit
from gate.errors import GateError
from gate.policy.limit_rows import COLUMNS, as_rows, rows_of
from gate.protocol.policies import Published


def read_rows(file: Path, service: str | None) -> dict[str, dict[str, LiveLimit]]:
    """Return what a file says, by service and tenant. Raises GateError that names the line."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as source:
            return rows_of(source, str(file), service, as_csv=file.suffix.lower() == ".csv")
    except OSError as error:
        raise GateError(f"{file} can't be read: {error}", hint="give a CSV file, or JSON lines") from None


def write_rows(service: str, tenants: Mapping[str, Published], out: TextIO, *, as_json: bool) -> None:
    """Write what is set, but for what ends by itself."""
    if as_json:
        for row in as_rows(service, tenants):
            print(json.dumps(row, ensure_ascii=False), file=out)
        return
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_rows(service, tenants))
