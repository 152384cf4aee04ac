"""Records of the distributed limiter, for their golden file: what an owner keeps, and what is said over Kafka.

`python -m tests.golden.mesh > tests/golden/mesh-N.json` writes the file of the version that this code writes first.
"""

import json
import sys
from typing import Any, Final

from gate.mesh import state, wire
from gate.mesh.wire import Ask, BudgetReport, Charged, Grant, Limits, Report, Run, Share, Slot
from tests.golden.__main__ import plain

AT: Final = 1_764_000_123_456_000_000
SECOND: Final = 1_000_000_000
RECORDS: Final[dict[str, Any]] = {
    "owner": state.OwnerRecord(AT, 41),
    "lease": state.LeaseRecord(("api-1", 3), 77, AT),
    "held": state.HeldRecord(
        ("api-1", 3), "pay.rate", (5_000_000_000, 7, 30), 40, [(41, (4_000_000_000, 6, 20))], (12,), (AT + SECOND,),
        900, 850, 2, [(880, AT)], 1_200_000, 16, 100,
    ),
    "budget": state.BudgetRecord(
        "pay.rate", (10, 3), 8, ((100, 5 * SECOND), (900, 60 * SECOND)), b"\x01", (1, 2, 3),
        (-(2**70)).to_bytes(9, "big", signed=True), 17, (((4, AT), (5, AT + 1)),), (((6, AT),),),
        True, AT, 11, 12, [(1, 2, 3)],
    ),
    "cells": state.CellsRecord("pay.rate", 60 * SECOND, 7, AT, 60_000_000, [0, 3, 0, 1]),
    "report": Report(
        "api-1", 3, 78, (BudgetReport("pay.rate", 41, 1_200_000, 850, (12,), (Run(840, 5), Run(850, -1))),),
        (Ask(9, ("pay.rate", "pay.acme"), 30, 4_000_000),), True, 5, (("pay", "acme"), ("mail", "")),
    ),
    "grant": Grant(
        "api-1", 3, 78, 10 * SECOND, 39,
        (Share("pay.rate", 42, Limits(3_333_333_333, (5 * SECOND,), 8, True), 5, 7, (30,), 900, ((880, 6),), 16, 100),),
        (Slot(9, 250_000_000, 0), Slot(10, 0, -1)), "9f2c01",
        (Charged("pay", "acme", ("pay.rate",), 2, (8,), False, "unknown"),), "no such holder",
    ),
}  # fmt: skip


def encoded(record: Any) -> bytes:
    """Return a record as it is written."""
    return wire.encode(record) if isinstance(record, Report | Grant) else state.write(record)


def decoded(name: str, data: bytes) -> Any:
    """Read a record as gates and their users do."""
    kinds: dict[str, Any] = {"report": Report, "grant": Grant}
    return wire.decode(kinds[name], data) if name in kinds else state.read(data)


if __name__ == "__main__":
    shown = {name: {"record": encoded(one).hex(), "holds": plain(one)} for name, one in RECORDS.items()}
    json.dump(shown, sys.stdout, indent=1)
    print()
