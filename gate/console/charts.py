"""What is plotted of a service: its history in steps, and the marks of what happened to it."""

import gzip
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from gate.console.feed import Feed
from gate.console.group import Group
from gate.console.history import point_of
from gate.console.view import limit_name
from gate.observe.history import COARSE_MS
from gate.observe.track import FINE_MS, KEPT_MS, Track

STEPS_MOST: Final = 8_700  # a day in steps of 10 s
FRESH_MS: Final = 4_000  # for which all who look are answered the same
_ANSWERS: Final = 64  # kept
_MARKS: Final = 200  # plotted
_TRACKED: Final = frozenset({"take-over", "policy"})  # of which the history knows, too


class Charts:
    """Plots of services, made once in a while for all who look."""

    def __init__(self, feed: Feed, wall_ms: Callable[[], int]) -> None:
        self._feed = feed
        self._wall_ms = wall_ms
        self._answers: dict[tuple[str, int, int, bool], tuple[int, bytes]] = {}

    async def packed(self, service: str, since_ms: int, step_ms: int, *, names: bool) -> bytes | None:
        """Return the last `since_ms` of a service in steps, as JSON packed by gzip; None: there is no such service."""
        key, now = (service, since_ms, step_ms, names), self._wall_ms()
        made, answer = self._answers.get(key, (0, b""))
        if not now - FRESH_MS < made <= now:
            found = await self.plotted(service, since_ms, step_ms, names=names)
            if found is None:
                return None
            answer = gzip.compress(msgspec.json.encode(found), compresslevel=6, mtime=0)
            self._answers.pop(key, None)
            self._answers[key] = now, answer
            while len(self._answers) > _ANSWERS:
                del self._answers[next(iter(self._answers))]
        return answer

    async def plotted(self, service: str, since_ms: int, step_ms: int, *, names: bool) -> dict[str, Any] | None:
        """Return the last `since_ms` of a service in steps, with marks; None: there is no such service."""
        group = await self._feed.use()
        record = group.record(service)
        if record is None:
            return None
        now = self._wall_ms() // step_ms * step_ms  # so that the steps of the next answer are the same
        start = now - since_ms
        track = await self._feed.histories.track(service, start, now)
        track.add(point_of(record), record.owner, record.policy)
        steps = track.steps(start, now, step_ms).as_json()
        marks = [mark for mark in _marks(track, group, service, names=names) if mark["at_ms"] >= start]
        pauses = [span for span in group.commanded.paused(service, now) if span[1] > start][-_MARKS:]
        return {
            **steps,
            "pauses": pauses[-_MARKS:],
            "marks": sorted(marks, key=lambda mark: int(mark["at_ms"]))[-_MARKS:],
        }


def step_for(since_ms: int, asked_ms: int) -> int:
    """Return the length of a step: as asked, but no finer than what is kept, nor than an answer may hold.

    Nor is it longer than what is looked at: it would begin long before that, or before all time.
    """
    least = 1_000 if since_ms <= FINE_MS else COARSE_MS
    return max(least, min(asked_ms, since_ms), -(-since_ms // STEPS_MOST))


def since_for(asked_ms: int) -> int:
    """Return how far back to look: as asked, but no longer than what is kept."""
    return min(max(asked_ms, COARSE_MS), KEPT_MS)


def _marks(track: Track, group: Group, service: str, *, names: bool) -> Iterator[dict[str, Any]]:
    told = track.changes[-1].at_ms if track.changes else 0
    for at_ms, kind, now, before in track.changes:
        what = f"{now} took over from {before}" if kind == "take-over" else f"policy {now}, before {before}"
        yield {"at_ms": at_ms, "kind": kind, "what": what}
    for mark in group.marks(service, names=names):
        if mark.kind not in _TRACKED or mark.at_ms > told:
            more = f": {limit_name(mark.more, service, names=names)}" if mark.more else ""
            yield {"at_ms": mark.at_ms, "kind": mark.kind, "what": f"{mark.what}{more}"}
