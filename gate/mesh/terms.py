"""Terms of a lease, and what clocks that drift make of a time."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gate.units import MS, SECOND

DRIFT: Final = 1000  # a clock may be fast or slow by 1/1000: crystals are ten times better, virtual machines not always
NANO: Final = 1_000_000_000  # rates are whole nano-units per second


class Away(StrEnum):
    """What a holder does when its lease has ended and no owner answers."""

    CLOSED = "closed"  # refuse
    OPEN = "open"  # let all go
    FLOOR = "floor"  # go on with the last part, halved with each lease


@dataclass(frozen=True, slots=True)
class Terms:
    """How long parts are leased and how often a holder reports; the same in owners and holders, all in ns.

    A lease outlasts the owner's session timeout by 3 s, so that an owner's death does not stop the mesh.
    """

    period_ns: int = SECOND
    lease_ns: int = 10 * SECOND
    stock_ns: int = 3 * SECOND // 2  # for how long a holder's granted units last
    turn_ns: int = 10 * SECOND  # after which a rest that can't be divided goes to others
    short_ns: int = 5 * SECOND  # windows up to this are divided; longer ones stay whole and are granted from
    use_by_ns: int = SECOND // 4  # for which the answer to a direct request holds, at most
    least_use_by_ns: int = SECOND // 10
    longest_use_by_ns: int = 2 * SECOND  # where answers take long
    away_ns: int = 60 * SECOND  # for which a holder goes on without an owner, where it is told to

    def use_by(self, window_ns: int, round_trip: int) -> int:
        """Return for how long a direct answer holds, where a unit that is lost counts for `window_ns`.

        It counts as if it were used at the end of that time, so a long one costs some of the limit; one that is shorter
        than the way to the holder costs all of it.
        """
        least = max(self.least_use_by_ns, min(2 * round_trip, self.longest_use_by_ns))
        return max(least, min(self.use_by_ns, window_ns // 200))


DEFAULT: Final = Terms()
SOON: Final = 5 * MS


def longer(time: int) -> int:
    """Return what a clock may show, at most, after a true `time` in ns."""
    return time + -(-time // DRIFT) + 1


def shorter(time: int) -> int:
    """Return what a clock shows, at least, after a true `time` in ns; also an own time of which nobody's is less."""
    return time - -(-time // DRIFT)


def slower(nano: int) -> int:
    """Return a rate that, by a clock that is too fast, is no more than `nano`."""
    return nano - -(-nano // DRIFT)
