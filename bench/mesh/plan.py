"""The load that every contender gets, as its processes are told it."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.mesh.servers import LIMITED, OPEN, SPELLS

PROCESSES: Final = 4
LIMIT: Final = 300  # per second, over all processes
OFFERED: Final = 4  # times the limit, by all together
SPELL_SECONDS: Final = 0.8
SPELL_EVERY: Final = 2  # seconds
SPELL_PLACES: Final = (0.35, 0.6, 0.85, 0.1)  # after the full second: a fixed window begins within some of them
FLAT, SATURATED = "flat out", "saturated"


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the load. Times are seconds from the start of the plan; `rate`: calls per second, None: flat out."""

    name: str
    service: str
    begin: float
    end: float
    counts_from: float  # what comes before is for warming up
    rate: float | None
    spells: tuple[tuple[float, float], ...] = ()  # within which alone it calls

    @classmethod
    def read(cls, entry: dict[str, Any]) -> "Phase":
        return cls(**{**entry, "spells": tuple(map(tuple, entry["spells"]))})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def spells(begin: float, count: int) -> tuple[tuple[float, float], ...]:
    begins = [begin + number * SPELL_EVERY + SPELL_PLACES[number % len(SPELL_PLACES)] for number in range(count)]
    return tuple((moment, moment + SPELL_SECONDS) for moment in begins)


def phases(processes: int, *, quick: bool, limited: bool = True) -> list[Phase]:
    """Return the whole plan; its start is at a full second. Without `limited` only how fast checks are is measured."""
    flat, warm, saturated, count = (1.0, 3, 2, 2) if quick else (3.0, 4, 5, 4)
    rate = LIMIT * OFFERED / processes
    found = [Phase(FLAT, OPEN, 0.5, 0.5 + flat, 0.5, None)]
    if limited:
        begin = int(flat) + 2
        found.append(Phase(SATURATED, LIMITED, begin, begin + warm + saturated, begin + warm, rate))
        begin += warm + saturated + 1
        spans = spells(begin, count)
        found.append(Phase(SPELLS, SPELLS, spans[0][0], spans[-1][1], spans[0][0], rate, spans))
    return found
