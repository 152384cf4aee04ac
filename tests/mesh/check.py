"""What a check of a shared limit costs beside one of `RateLimiter`: in alternating rounds of one process, no Kafka."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from fractions import Fraction
from statistics import median
from typing import Any, Final

from msgspec.structs import replace

from gate import DistributedRateLimiter, RateLimiter, SyncDistributedRateLimiter
from gate.distributed.link import now
from gate.limits import Spec, Window
from gate.mesh.owner import Owner
from gate.mesh.wire import Charged, Grant, Report, decode, encode
from gate.units import SECOND

CALLS, ROUNDS = 4_000, 41
PLENTY: Final = 10**9  # units: no call is refused
RATE: Final = Fraction(PLENTY)
SPECS: Mapping[str, Spec] = {
    "a bucket": Spec(RATE, PLENTY, ()),
    "and a window of a second": Spec(RATE, PLENTY, (Window(PLENTY, SECOND),)),
    "and a window of a minute": Spec(RATE, PLENTY, (Window(PLENTY, 60 * SECOND),)),
}
Shared = DistributedRateLimiter | SyncDistributedRateLimiter
Check = Callable[[str], tuple[bool, float | None]]
AsyncCheck = Callable[[str], Coroutine[Any, Any, tuple[bool, float | None]]]


class Answered:
    """A limiter whose owner is beside it: all but Kafka is real."""

    def __init__(self, limiter: Shared, spec: Spec) -> None:
        self.holders = limiter._shared.holders
        self.owner = Owner({"s": spec}.get)
        self.holders.settle(1, 1)
        self.holders.find(now(), "s", "")
        self.renew()
        for units in (0, 2 * PLENTY, 2 * PLENTY):  # it wants enough for many rounds
            if held := self.holders.plain["s"].only:
                held.wanted += units
            time.sleep(1.2)
            self.renew()

    def renew(self) -> None:
        """Report what is due, and take the answers."""
        for _, name, data in list(self.holders.reports(now())):
            report = decode(Report, data)
            if report.seq:
                self.owner.receive(now(), report)
            found = tuple([Charged(service, tenant, ("s",), 0) for service, tenant in report.lookups])
            if found:
                empty = Grant(report.holder, report.epoch, 0, self.owner.terms.lease_ns, 0)
                self.holders.receive(now(), name.encode(), encode(replace(empty, found=found)))
        for grant in self.owner.step(now()):
            self.holders.receive(now(), grant.holder.encode(), encode(grant))


def blocking(check: Check) -> float:
    """Return the us of process time of a call."""
    began = time.process_time_ns()
    for _ in range(CALLS):
        if not check("s")[0]:
            raise AssertionError("a call was refused: what is timed is something else")
    return (time.process_time_ns() - began) / CALLS / 1000


def awaited(check: AsyncCheck) -> float:
    """Return the us of process time of a call that is awaited."""

    async def run() -> float:
        began = time.process_time_ns()
        for _ in range(CALLS):
            if not (await check("s"))[0]:
                raise AssertionError("a call was refused: what is timed is something else")
        return (time.process_time_ns() - began) / CALLS / 1000

    return asyncio.run(run())


def compare(spec: Spec, *, sync: bool) -> tuple[float, float, float]:
    """Return the us of a check of `RateLimiter`, of one here, and the median of what each pair of rounds is apart."""
    local = RateLimiter()
    local.configure("s", spec)
    shared: Shared = SyncDistributedRateLimiter("nowhere:1") if sync else DistributedRateLimiter("nowhere:1")
    answered = Answered(shared, spec)
    rounds = []
    for number in range(ROUNDS):
        answered.renew()
        pair = {}
        for here in (True, False) if number % 2 else (False, True):
            check: Any = shared.check_rate_limit if here else local.check if sync else local.check_rate_limit
            pair[here] = blocking(check) if sync else awaited(check)
        rounds.append((pair[False], pair[True]))
    locals_, heres = zip(*rounds, strict=True)
    return median(locals_), median(heres), median([here / there for there, here in rounds])


def table() -> None:
    """Print it for each kind of limit."""
    print(f"medians of {ROUNDS} alternating rounds of {CALLS} calls, us of process time per check", flush=True)
    for name, spec in SPECS.items():
        for sync in (True, False):
            local, here, ratio = compare(spec, sync=sync)
            kind = "sync" if sync else "async"
            print(f"{name:26} {kind:6} {local:.3f} RateLimiter, {here:.3f} shared: {ratio:.2f}x", flush=True)
