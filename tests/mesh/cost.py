"""What leases cost an owner: holders report, an owner hears, divides, and writes its state; all but Kafka is real."""

import time
from collections.abc import Mapping
from fractions import Fraction
from random import Random

from gate.cli.collector import tune_collector
from gate.limits import Spec, Window
from gate.mesh.holder import Holder
from gate.mesh.owner import Owner
from gate.mesh.wire import Grant, Report, decode, encode
from gate.units import MS, SECOND

HOLDERS = 200
SERVICES = 20  # of each
CALLS = 5  # per second, holder and service
WARM, SECONDS = 10, 20  # and before that a window, until it counts all that it will
STEP, WAY = 50 * MS, 20 * MS
RATE = Fraction(2000)
SPECS: Mapping[str, Spec] = {
    "a bucket": Spec(RATE, 2000, ()),
    "and a window of a second": Spec(RATE, 2000, (Window(2000, SECOND),)),
    "and a window of a minute": Spec(RATE, 2000, (Window(60_000, 60 * SECOND),)),
}


def cost(spec: Spec) -> tuple[float, float]:
    """Return the part of a core that an owner takes, and how many records of state it writes in a second."""
    chance, now = Random(1), 1000 * SECOND
    owner = Owner({f"s{number}": spec for number in range(SERVICES)}.get)
    holders = {f"host-{number}": Holder(f"host-{number}", 1 + number, now) for number in range(HOLDERS)}
    grants: list[tuple[int, Grant]] = []
    spent, written = 0.0, 0
    warm = now + WARM * SECOND + max([window.size for window in spec.windows], default=0)
    while now < warm + SECONDS * SECOND:
        now += STEP
        for _, grant in [pair for pair in grants if pair[0] <= now]:
            holders[grant.holder].receive(now, grant)
        grants = [pair for pair in grants if pair[0] > now]
        inbox = []
        for holder in holders.values():
            for number in range(SERVICES):
                if chance.random() < CALLS * STEP / SECOND:
                    holder.check(now, (f"s{number}",))
            if holder.due(now) and (report := holder.report(now)) is not None:
                inbox.append(encode(report))
        began = time.process_time()
        for data in inbox:
            owner.receive(now, decode(Report, data))
        granted = owner.step(now)
        changes = owner.drain_changes(now)
        for grant in granted:
            encode(grant)
        if now >= warm:
            spent, written = spent + time.process_time() - began, written + len(changes)
        grants += [(now + WAY, grant) for grant in granted]
    return spent / SECONDS, written / SECONDS


def table() -> None:
    """Print it for each kind of limit, with the collector as a gate runs it."""
    tune_collector()
    print(f"{HOLDERS} holders of {SERVICES} services, {CALLS} calls/s of each", flush=True)
    for name, spec in SPECS.items():
        core, records = cost(spec)
        print(f"{name:26} {core:.3f} of a core, {records:,.0f} records of state/s", flush=True)
