"""Reports of holders, as they are read from `gate.leases`: what no holder can have sent is passed over, and counted.

Whoever may write to that topic can send anything. What is read here is bounded in all that it can have an owner do: in
its size, in the budgets and calls that it names, in how long their names and how large its numbers are.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from gate.mesh.holder import MOST_TOLD
from gate.mesh.owner import MOST_HOLDERS
from gate.mesh.wire import Report, VersionError, WireError, decode
from gate.shard.records import Record

LARGEST_REPORT: Final = 512 << 10  # bytes
LONGEST_TENANT: Final = 1_000  # characters, of those that are looked up; longer than 200 they are called otherwise
LONGEST_NAME: Final = 249 + 1 + 200  # of a budget: a service, and its tenant
MOST_LOOKUPS: Final = 100
MOST_ASKS: Final = 500
MOST_NAMES: Final = 4  # that one call is charged to
_LONGEST_HOLDER: Final = 200
_LARGEST: Final = 2**53  # of the numbers that a holder tells
_MOST_RUNS: Final = 1_000  # of a budget
REASONS: Final = ("too-large", "version", "unreadable", "impossible", "too-many-holders")


class Ignored(NamedTuple):
    """Reports of one kind that were not heard, and the first of them."""

    reason: str
    reports: int
    offset: int
    why: str


class LeaseReports:
    """Reads reports."""

    def __init__(self) -> None:
        self._ignored: dict[str, Ignored] = {}

    def drain(self) -> list[Ignored]:
        """Return what was passed over since the last call."""
        ignored, self._ignored = list(self._ignored.values()), {}
        return ignored

    def read(self, record: Record, partitions: int, holders: Collection[tuple[str, int]]) -> Report | None:
        """Return the report of a record; None: it is passed over. `holders` are known already."""
        found = judge(record.value or b"", partitions, holders)
        if isinstance(found, Report):
            return found
        reason, why = found
        first = self._ignored.get(reason, Ignored(reason, 0, record.offset, why))
        self._ignored[reason] = first._replace(reports=first.reports + 1)
        return None


def judge(value: bytes, partitions: int, holders: Collection[tuple[str, int]]) -> Report | tuple[str, str]:
    """Return the report of a record, or the reason for which it is not heard, and what is wrong."""
    if len(value) > LARGEST_REPORT:
        return "too-large", f"it has {len(value)} bytes, and may have {LARGEST_REPORT}"
    try:
        report = decode(Report, value)
    except VersionError as error:
        return "version", str(error)
    except WireError as error:
        return "unreadable", str(error)[:200]
    if why := _impossible(report, partitions):
        return "impossible", why
    if (report.holder, report.epoch) not in holders and len(holders) >= MOST_HOLDERS:
        return "too-many-holders", f"a shard takes {MOST_HOLDERS} of them"
    return report


def _impossible(report: Report, partitions: int) -> str:
    """Say what no holder can have sent; nothing: it may be one's."""
    if not 0 < len(report.holder) <= _LONGEST_HOLDER:
        return f"the holder's name has {len(report.holder)} characters"
    if not 0 <= report.partition < partitions:
        return f"it reads partition {report.partition} of the grants, of {partitions}"
    for what, count, most in (
        ("budgets", len(report.budgets), MOST_TOLD),
        ("calls", len(report.asks), MOST_ASKS),
        ("lookups", len(report.lookups), MOST_LOOKUPS),
    ):
        if count > most:
            return f"it names {count} {what}, and may name {most}"
    numbers = [report.epoch, report.seq]
    longest = 0
    for entry in report.budgets:
        if len(entry.runs) > _MOST_RUNS:
            return f"it tells of {len(entry.runs)} uses of one budget"
        longest = max(longest, len(entry.name))
        numbers += (entry.version, entry.want, entry.consumed, *entry.counts)
        numbers += (*(entry.alone or ()), *(entry.told or ()))
        numbers += [run.position for run in entry.runs]
        if entry.runs and max(run.age for run in entry.runs) > _LARGEST:
            return "a use is older than all time"
    for ask in report.asks:
        if not 0 < len(ask.names) <= MOST_NAMES:
            return f"a call is charged to {len(ask.names)} budgets"
        longest = max(longest, *map(len, ask.names))
        numbers += (ask.number, ask.cost, ask.round_trip)
    if longest > LONGEST_NAME or any(max(map(len, names)) > LONGEST_TENANT for names in report.lookups):
        return "a name has too many characters"
    if min(numbers) < 0 or max(numbers) > _LARGEST:
        return f"a number is {min(numbers)} or {max(numbers)}"
    return ""
