"""Whether the changelog, at any moment, says what the other topics imply: what waits, and how far the limits are used.

Pure. The log of the state topic must be whole (no compaction), as it is in a run that switches the cleaner off.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from gate.admission.state import SegmentRecord, ServiceRecord, decode
from gate.limits import Limiter, Spec
from gate.shard.changelog_records import META_KEY, Meta

MS = 1_000_000
Place = tuple[int, int]  # partition and offset in the delayed topic


class Replay:
    """One service as its topics tell it: add what they hold, in any order, then go forward in time."""

    def __init__(self, spec: Spec) -> None:
        self.limiter = Limiter(spec, 0)
        self.waiting: set[Place] = set()
        self._moves: list[tuple[int, bool, Place]] = []  # (ms, leaves, place)
        self._window = spec.windows[0]
        self._used: dict[int, int] = {}
        self._charges: list[tuple[int, int]] = []

    def parked(self, at: int, place: Place) -> None:
        """Note that a request came to its place in the batch of `at` (ms)."""
        self._moves.append((at, False, place))

    def left(self, at: int, place: Place) -> None:
        """Note that it left its place."""
        self._moves.append((at, True, place))

    def admitted(self, at: int, units: int) -> None:
        """Note what was admitted."""
        self._used[at] = self._used.get(at, 0) + units

    def seal(self) -> None:
        """End the adding."""
        self._moves.sort(reverse=True)
        self._charges = sorted(self._used.items(), reverse=True)

    def advance(self, at: int) -> None:
        """Go to where the batch of `at` (ms) has left it; never back."""
        while self._moves and self._moves[-1][0] <= at:
            _, leaves, place = self._moves.pop()
            (self.waiting.discard if leaves else self.waiting.add)(place)
        while self._charges and self._charges[-1][0] <= at:
            moment, units = self._charges.pop()
            self.limiter.charge(moment * MS, units)

    def counted(self, at: int) -> tuple[int, int]:
        """Return what the window counts at the least and at the most: its cells may keep a bit more, a bit longer."""
        cell = -(-self._window.size // 1000 // MS)
        quantum = -(-self._window.limit // 0xFFFF)
        start = at - self._window.size // MS
        exact = sum(units for moment, units in self._used.items() if start < moment <= at)
        more = sum(units for moment, units in self._used.items() if start - cell < moment <= start)
        return exact, exact + more + quantum - 1


def problems(
    shard: int,
    log: Iterable[tuple[str, bytes | None, int]],
    cuts: Sequence[float],
    services: Mapping[str, Replay],
) -> Iterator[str]:
    """Yield where the state of a shard as of a cut (unix ms), or at the end, does not say what the topics imply.

    `log` holds key, value and LogAppendTime of all committed records of the shard's changelog, in order.
    """
    state: dict[str, bytes] = {}
    left = sorted(cuts, reverse=True)
    batch: dict[str, bytes | None] = {}
    for key, value, appended in log:
        batch[key] = value
        if key != META_KEY:
            continue
        if left and left[-1] < appended:  # a cut before this batch, which closes with this record
            while left and left[-1] < appended:
                cut = left.pop()
            yield from _compare(f"shard {shard} at {cut:.0f}", state, services)
        for name, data in batch.items():
            if data is None:
                state.pop(name, None)
            else:
                state[name] = data
        batch = {}
    if batch:
        yield f"shard {shard}: {len(batch)} records stand behind the last batch"
    yield from _compare(f"shard {shard} at the end", state, services)


def _compare(where: str, state: Mapping[str, bytes], services: Mapping[str, Replay]) -> Iterator[str]:
    if META_KEY not in state:
        return
    at = msgspec.json.decode(state[META_KEY], type=Meta).at // MS
    kept: dict[str, set[Place]] = {}
    for key, value in state.items():
        kind, _, rest = key.partition("/")
        if kind == "parked":
            service, partition, _ = rest.split("/")
            record = decode(key, value, SegmentRecord)
            places = kept.setdefault(service, set())
            for offset, count in zip(array("I", record.offset), array("H", record.count), strict=True):
                places.update((int(partition), record.base + offset + i) for i in range(count))
    for service, replay in services.items():
        key = f"service/{service}"
        if key not in state:
            continue
        replay.advance(at)
        places = kept.get(service, set())
        if replay.waiting != places:
            yield (
                f"{where}: {service} has {len(places)} parked in the state, {len(replay.waiting)} by the topics; only"
                f" in the state: {sorted(places - replay.waiting)[:3]}, only in the topics:"
                f" {sorted(replay.waiting - places)[:3]}"
            )
        now, limiter = at * MS, replay.limiter.copy()
        stored = Limiter.load(limiter.spec, decode(key, state[key], ServiceRecord).limiter)
        tokens = limiter.tokens(now)
        for name, kept_level, least, most in (
            ("bucket", stored.tokens(now), tokens, tokens),
            ("window", stored.fullest(now)[0], *replay.counted(at)),
        ):
            if not least <= kept_level <= most:
                yield (
                    f"{where}: the {name} of {service} stands at {float(kept_level)} in the state,"
                    f" {float(least)} to {float(most)} by the topics"
                )
