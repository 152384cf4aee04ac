"""Whether `/readyz` of each gate tells the truth: it is asked all the time, and its answers are held against decisions.

Wrong is one that is green while it decides nothing of what waits at its shards, and one that is red while it decides.
"""

import asyncio
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from time import time
from urllib.parse import urlsplit

from tests.chaos.members import Members
from tests.system.gates import GateProcess

EVERY = 0.3  # seconds
ANSWER = 1.0  # that one may take; a gate that stands still says nothing
GREEN_MS = (
    10_000  # that a gate may be green without deciding: it finds out in 3 s, a request may take 4 s to be readable
)
RED_MS = 3_000  # that it may be red while it decides: the last of its shards goes on later than the first
ASSIGNED = re.compile(r"^(\S+Z) .*\bassigned .*?shards=\[([\d, ]*)\]", re.MULTILINE)


@dataclass
class Answers:
    """What one gate said. `said`: when (unix ms) and whether it was ready; None: it said nothing."""

    name: str
    said: list[tuple[int, bool | None]] = field(default_factory=list)
    owned: list[tuple[int, frozenset[int]]] = field(default_factory=list)  # from when on, unix ms

    def spans(self, colour: bool) -> Iterator[tuple[int, int]]:
        """Yield the spans in which it said the same, from the first answer to the last, once it has begun.

        A new gate is red until it has tried to take over all of its shards, whichever of them decide.
        """
        first = next((n for n, (_, ready) in enumerate(self.said) if ready), len(self.said))
        begun: int | None = None
        last = 0
        for at, ready in self.said[first:]:
            if ready is colour:
                begun, last = at if begun is None else begun, at
            elif begun is not None:
                yield begun, last
                begun = None
        if begun is not None:
            yield begun, last


def holdings(answers: Sequence[Answers]) -> Iterator[tuple[Answers, int, int, frozenset[int]]]:
    """Yield which gate had which shards, from when to when: until somebody else was given them, too.

    One that the group has expelled does not know that for a while.
    """
    events = sorted((at, index, shards) for index, gate in enumerate(answers) for at, shards in gate.owned)
    owners: dict[int, int] = {}
    for (at, index, shards), (end, *_) in pairwise([*events, (1 << 62, 0, frozenset[int]())]):
        owners = {shard: owner for shard, owner in owners.items() if owner != index} | dict.fromkeys(shards, index)
        for number, gate in enumerate(answers):
            yield gate, at, end, frozenset(shard for shard, owner in owners.items() if owner == number)


def problems(
    answers: Sequence[Answers],
    arrived: Mapping[int, Sequence[int]],
    decided: Mapping[int, Sequence[int]],
) -> list[str]:
    """Return what was wrong. By shard, ascending, unix ms: when requests came, and when some were decided."""
    found = []
    for gate, at, end, shards in holdings(answers):
        came, went = (sorted(t for shard in shards for t in times.get(shard, ())) for times in (arrived, decided))
        for green_from, green_to in gate.spans(colour=True):
            for since, until in _silences(came, went, max(at, green_from), min(end, green_to)):
                if until - since > GREEN_MS:
                    found.append(
                        f"{gate.name} was green for {(until - since) / 1e3:.1f} s from {since} on in which nothing"
                        f" of what waited at its shards {sorted(shards)} was decided"
                    )
        for red_from, red_to in gate.spans(colour=False):
            begin, stop = max(at, red_from), min(end, red_to)
            some = went[bisect_left(went, begin) : bisect_right(went, stop)]
            if some and some[-1] - some[0] > RED_MS:
                found.append(
                    f"{gate.name} was red for {(stop - begin) / 1e3:.1f} s from {begin} on, and decided"
                    f" {len(some)} times meanwhile, for {(some[-1] - some[0]) / 1e3:.1f} s"
                )
    return found


def _silences(came: Sequence[int], went: Sequence[int], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the spans within `begin` to `end` in which something waited and nothing was decided."""
    inner = went[bisect_left(went, begin) : bisect_right(went, end)]
    for before, after in pairwise([begin, *inner, end]):
        index = bisect_right(came, before)  # what came with a decision is decided by it
        if index < len(came) and came[index] < after:
            yield came[index], after


class Asking:
    """Asks the gates of a run, from their start to their end."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._answers: dict[str, Answers] = {}
        self._logs: dict[str, GateProcess] = {}

    async def run(self) -> None:
        """Ask until it is cancelled."""
        while True:
            gates = list(self._members.living.values())
            await asyncio.gather(*(self._ask(gate) for gate in gates))
            await asyncio.sleep(EVERY)

    async def _ask(self, gate: GateProcess) -> None:
        name = gate.log.parent.name
        if "serving http" not in gate.text():
            return
        self._logs[name] = gate
        answers = self._answers.setdefault(name, Answers(name))
        answers.said.append((round(1000 * time()), await _is_ready(gate.url())))

    def found(self) -> list[Answers]:
        """Return what all have said, and what they had as their logs say."""
        for name, answers in self._answers.items():
            answers.owned = assignments(self._logs[name].text())
        return list(self._answers.values())


def assignments(log: str) -> list[tuple[int, frozenset[int]]]:
    """Return when a gate was given which shards, unix ms."""
    return [
        (
            round(1000 * datetime.fromisoformat(at).timestamp()),
            frozenset(int(number) for number in text.split(",") if number.strip()),
        )
        for at, text in ASSIGNED.findall(log)
    ]


async def _is_ready(url: str) -> bool | None:
    place = urlsplit(url)
    with suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(ANSWER):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
                status = int((await reader.readline()).split()[1])
                return {200: True, 503: False}.get(status)
            finally:
                writer.close()
    return None
