"""What processes hold of shared limits, as their reports and the owners' grants tell it. No I/O, no clock."""

from dataclasses import dataclass
from typing import Final

from gate.mesh.wire import Grant, Report, WireError, decode
from gate.shard.lease_reports import judge

_PER_SECOND: Final = 1_000  # wants are per 1,000 s
_NANO: Final = 1_000_000_000
MOST: Final = 100_000  # shares that are looked at: whoever may report can make up any number of budgets
_PARTITIONS: Final = 2**31


@dataclass(frozen=True, slots=True)
class Share:
    """What one process has of one budget, and wants; per second."""

    budget: str
    holder: str
    wants: float
    holds: float | None  # None: no bucket is divided, it is granted units
    burst: int = 0
    granted: int = 0  # units of longer windows and quotas, so far
    is_told: bool = False  # whether an owner has answered


class Shares:
    """The newest of reports and grants."""

    def __init__(self) -> None:
        self._wants: dict[tuple[str, str], float] = {}  # by budget and holder
        self._held: dict[tuple[str, str], Share] = {}
        self._gone: set[str] = set()

    def report(self, value: bytes | None) -> None:
        """Take a record of the leases topic."""
        report = judge(value or b"", _PARTITIONS, ())
        if not isinstance(report, Report):
            return  # no gate hears it, either
        if report.leaving:
            self._gone.add(report.holder)
            return
        self._gone.discard(report.holder)
        for one in report.budgets:
            if len(self._wants) >= MOST and (one.name, report.holder) not in self._wants:
                return
            self._wants[one.name, report.holder] = one.want / _PER_SECOND

    def grant(self, value: bytes | None) -> None:
        """Take a record of the grants topic."""
        try:
            grant = decode(Grant, value or b"")
        except WireError:
            return
        for one in grant.shares:
            holds = None if one.limits.rate < 0 else one.rate / _NANO
            key = one.name, grant.holder
            self._held[key] = Share(one.name, grant.holder, 0.0, holds, max(0, one.burst), one.granted, is_told=True)

    def all(self) -> list[Share]:
        """Return them by budget, those first that want most."""
        found = []
        for budget, holder in self._wants.keys() | self._held.keys():
            if holder not in self._gone:
                held = self._held.get((budget, holder), Share(budget, holder, 0.0, None))
                wants = self._wants.get((budget, holder), 0.0)
                found.append(
                    Share(budget, holder, wants, held.holds, held.burst, held.granted, held.is_told)
                )  # fmt: skip
        return sorted(found, key=lambda share: (share.budget, -share.wants, share.holder))
