"""Writes the golden file of the version that this code writes: `python -m tests.golden > tests/golden/state-N.json`.

A version's file is made once, by the code that writes it first.
"""

import dataclasses
import json
import sys
from array import array
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import msgspec

from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, SECOND, Run
from gate.admission.recent_ids import RecentIds, pack
from gate.limits import Running, Spec, Window
from gate.policy import Deduplicate, Overflow, ServicePolicy, Tenants
from tests.admission.simulation import Simulation
from tests.golden import kinds

START = 1_764_000_000 * SECOND


def main() -> None:
    """Print each record with what is in it."""
    records = {**_engines(), **kinds.shell_records()}
    shown = {
        key: {"record": data.hex(), "holds": plain(kinds.decoded(key, data))} for key, data in sorted(records.items())
    }
    json.dump(shown, sys.stdout, indent=1, ensure_ascii=False)
    print()


def plain(value: Any) -> Any:
    """Return what a record holds, by names, as JSON can say it."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(held) for held in value]
    if isinstance(value, msgspec.Raw):
        return plain(msgspec.msgpack.decode(value))
    return value.hex() if isinstance(value, bytes) else value


def _engines() -> dict[str, bytes]:
    """Return what engines write that park, hold, refuse, are paused and share a budget."""
    bank = Spec(Fraction(5), 5, (Window(200, 60 * SECOND),))
    records: dict[str, bytes] = {}
    for name, overflow in (("parks", Overflow.DELAY), ("holds", Overflow.HOLD), ("rejects", Overflow.REJECT)):
        budgets = Budgets(START, {"bank": bank})
        sim = Simulation(_policy(name, overflow), now=START, budgets=budgets, partitions=2)
        sim.submit(
            Run(0, 9, "hi", "acme"), Run(9, 20, "hi", "zoë", 2), Run(29, 5, "low", "", 1, START + 90 * SECOND),
            Run(34, 3, "unknown", "acme", 300), Run(37, 4, "low", "acme"),
        )  # fmt: skip
        sim.engine.pause(sim.now, START + 500 * SECOND, "zoë")
        sim.engine.set_in_flight(sim.now, 3)
        sim.run_until(START + 3 * SECOND + 7 * MS)
        sim.offer(2, lane="low", tenant="late")
        sim.save()
        records |= {key if not key.startswith("group/") else f"group/bank-{name}": v for key, v in sim.state.items()}
    return records | _scheduled() | _running() | _seen()


def _scheduled() -> dict[str, bytes]:
    """Return what an engine writes of those who are not to go before a time, and of those whose time has come."""
    sim = Simulation(ServicePolicy("later", Spec(Fraction(1, 100), 800, ())), now=START, partitions=2)
    sim.submit(
        Run(0, 9, "", "acme", 150, start=START + 5 * SECOND),
        Run(9, 3, "", "zoë", 2, START + 90 * SECOND, START + 6 * SECOND),
        Run(12, 4, start=START + 10**5 * SECOND),
        Run(16, 2, "", "", 700, START + 10**6 * SECOND, START + 10**5 * SECOND),
    )
    sim.run_until(START + 7 * SECOND)
    sim.save()
    return {key: value for key, value in sim.state.items() if key.startswith(("parked/", "scheduled/"))}


def _running() -> dict[str, bytes]:
    """Return what an engine writes of what runs."""
    spec = Spec(None, 1, (), running=Running(4))
    policy = ServicePolicy("runs", spec, tenants=Tenants.of({"acme": {"max_running": 2}}))
    sim = Simulation(policy, now=START)
    sim.submit(Run(0, 3, "", "acme"), Run(3, 2))
    sim.save()
    return {key: value for key, value in sim.state.items() if key.startswith("running/")}


def _seen() -> dict[str, bytes]:
    """Return what is written of ids that may come only once."""
    recent = RecentIds("once", 7, Deduplicate(3600 * SECOND))
    for number, ids in enumerate(([b"a", b"b"], [b"c"])):
        recent.keep(
            START + number * SECOND,
            recent.digests([("acme", ids)]),
            array("Q", [pack((number, 40 + n)) for n in range(len(ids))]),
        )
    recent.forget(recent.digests([("acme", [b"b"])]), (0, 41))
    return {key: value for key, value in recent.drain_changes().items() if value is not None}


def _policy(name: str, overflow: Overflow) -> ServicePolicy:
    said = {"requests_per_second": Fraction(2), "burst_size": 3, "window_size": None, "windows": ()}
    return ServicePolicy(
        name, Spec(Fraction(10), 8, (Window(100, 60 * SECOND),)), overflow=overflow, max_delay=3_000 * SECOND,
        lanes={"hi": Fraction(6), "low": Fraction(1)}, default_lane="low", group="bank", max_in_flight=400,
        tenants=Tenants.of({"acme": said, "zoë": said}),
    )  # fmt: skip


if __name__ == "__main__":
    main()
