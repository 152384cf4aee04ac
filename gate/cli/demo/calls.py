"""Calls of processes that ask before they act: the other door to the limit of a service that also has a topic."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gate.cli.demo.intervals import Use, excess
from gate.cli.demo.stage import Program
from gate.cli.demo.tally import Ledger
from gate.limits import Spec
from gate.units import MS

SERVICE: Final = "search"
PROCESSES: Final = 3
PER_SECOND: Final = 100  # of each


class Calls:
    """All that the processes tell, one file each: they are counted as they come."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / f"demo-calls-{number}" for number in range(1, PROCESSES + 1)]
        self.uses: list[Use] = []  # of those that were allowed
        self.refused = 0
        self._read = [0] * PROCESSES
        self._allowed = [False] * PROCESSES
        self._programs: list[Program] = []
        for file in self.files:
            file.unlink(missing_ok=True)

    def start(self, log: Path) -> list[Program]:
        """Start the processes, and return them."""
        log.write_text("")
        command = ["-m", "gate.cli.demo.caller", SERVICE, str(PER_SECOND)]
        self._programs += [Program(f"a caller of {SERVICE}", [*command, str(file)], log) for file in self.files]
        return self._programs

    def kill(self) -> None:
        """End them at once."""
        for program in self._programs:
            program.kill()

    @property
    def asked(self) -> int:
        """How many calls there were."""
        return len(self.uses) + self.refused

    @property
    def all_allowed(self) -> bool:
        """Tell whether each process has had a call allowed: on a machine that stalls that takes a while."""
        self.read()
        return all(self._allowed)

    def read(self) -> None:
        """Take in what is new."""
        for place, file in enumerate(self.files):
            if not file.exists():
                continue
            with file.open() as told:
                told.seek(self._read[place])
                for line in told.read().splitlines(keepends=True):
                    if not line.endswith("\n"):  # the rest comes
                        break
                    before, after, allowed = map(int, line.split())
                    self._read[place] += len(line)
                    if allowed:
                        self._allowed[place] = True
                        self.uses.append((before, after))
                    else:
                        self.refused += 1


def broken_together(calls: Calls, ledger: Ledger, spec: Spec) -> Iterator[str]:
    """Yield a line for each limit that calls and the topic exceeded together.

    A request was admitted after its producer had it and before a consumer saw it, by this machine's clock, as that of a
    call is: what the clock of the gate or of the broker says does not matter.
    """
    by_topic = [(outcome.content.created * MS, (outcome.seen_ms + 1) * MS) for outcome in ledger.admitted]
    for line in excess(spec, [*calls.uses, *by_topic]):
        yield f"{SERVICE}: calls and topic together are over the limit: {line}"
    if not calls.uses:
        yield f"{SERVICE}: none of {calls.asked} calls was allowed"
