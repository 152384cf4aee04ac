"""What goes wrong in a chaos run, drawn from a seed: how each life of a gate ends, and when the broker dies."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from gate.shard.failpoints import POINTS

TAKE_OVER_POINTS = ("after-claim", "after-restore")
BATCHES_PER_SECOND = 4  # that a gate surely makes under load, also on a slow machine, for setting a point's count
CLOCK_SHIFTS = (-7200, -3600, 3600, 7200)  # seconds


class End(StrEnum):
    """How a life of a gate ends."""

    KILL = "kill"  # SIGKILL after some time
    POINT = "point"  # SIGKILL at a named point
    PAUSE = "pause"  # SIGSTOP beyond the session, SIGCONT: a zombie; it lives on and is killed later
    LEAVE = "leave"  # SIGTERM
    NONE = "none"  # lives until the run ends


@dataclass(frozen=True, slots=True)
class Fate:
    """One life of a gate. Times in seconds."""

    end: End = End.NONE
    after: float = 0.0  # since it runs
    point: str = ""
    count: int = 1  # how often the point must have been reached
    pause: float = 0.0
    back: float = 0.0  # until its place is taken by a new one
    clock: int = 0  # by how much its wall clock is wrong, seconds

    def __str__(self) -> str:
        what = f"{self.point}:{self.count}" if self.end is End.POINT else f"{self.end} after {self.after:.1f} s"
        return what + (f", clock {self.clock:+d} s" if self.clock else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """All faults of a run: `fates` go to whichever place is free next, so up to as many happen at once as gates run."""

    seed: int
    fates: tuple[Fate, ...]
    broker_kills: tuple[float, ...]  # seconds since the start

    @property
    def kills(self) -> int:
        """How many SIGKILLs a gate gets."""
        return sum(fate.end in {End.KILL, End.POINT} for fate in self.fates)


def draw(seed: int, kills: int, gates: int, seconds: float, session: float, broker_kills: int | None = None) -> Plan:
    """Draw a plan of `kills` SIGKILLs that fits into about `seconds` with `gates` places.

    Zombies, leaves and, unless given otherwise, kills of the broker are a tenth as many each.
    """
    random = Random(f"chaos {seed}")
    others = max(1, kills // 10) if kills else 0
    each = max(1, kills // 20) if kills else 0  # of each point
    ends = [End.PAUSE] * others + [End.LEAVE] * others
    points = list(POINTS) * each
    ends += [End.KILL] * max(0, kills - len(points))
    lives = max(1, len(ends) + len(points))
    life = gates * seconds / lives  # seconds, from one to the next in one place
    mean = max(0.2, life - session - 2.0)  # a new gate comes into its own only when its predecessor's session is over

    def fate(end: End, point: str = "") -> Fate:
        after = random.uniform(0.1, 2 * mean)
        most = 2 if point in TAKE_OVER_POINTS else max(2, int(BATCHES_PER_SECOND * after))
        return Fate(
            end, after, point,
            count=random.randint(1, most),
            pause=session + random.uniform(0.5, 2.0) if end is End.PAUSE else 0.0,
            back=random.choice((0.0, 0.0, random.uniform(0.0, 1.0))),
            clock=random.choice(CLOCK_SHIFTS) if random.random() < 0.2 else 0,
        )  # fmt: skip

    fates = [fate(end) for end in ends] + [fate(End.POINT, point) for point in points]
    random.shuffle(fates)
    crashes = others if broker_kills is None else broker_kills
    restarts = [seconds * (i + random.uniform(0.3, 0.9)) / crashes for i in range(crashes)]
    return Plan(seed, tuple(fates), tuple(restarts))
