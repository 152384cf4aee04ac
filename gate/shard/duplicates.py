"""Duplicates: requests that come once more, found before the engine decides about a batch.

The first one of an id may be in the same batch, and its fate not known yet: what repeats it, word for word as far as
the gate reads it, shares that fate. What asks for something else is looked at again with the next batch.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from gate.admission.model import Decision, Reason, Run, Verdict
from gate.admission.recent_ids import BYTES, NO_ID, Place, RecentIds, pack, unpack
from gate.policy import Deduplicate
from gate.protocol.headers import ID, TENANT, Malformed, last
from gate.shard.forwarding import Refusal
from gate.shard.records import Record
from gate.shard.routing import PartitionSlice, RefusedRequest

KEY: Final = "key"
_HEADERS: Final = {"id": ID}
_NONE: Final = ("", None)
_STAYING: Final = frozenset({Verdict.ADMITTED, Verdict.DELAYED})
_SLICE: Final = 512  # ids


@dataclass(slots=True)
class Repeats:
    """What of a batch has come before, by number: with the place of the first, or with its number in the batch."""

    digests: bytes = b""  # by number, one behind the other
    known: dict[int, Place] = field(default_factory=dict)
    within: dict[int, int] = field(default_factory=dict)
    cut: int | None = None  # from this number on the batch is to be looked at again

    @property
    def numbers(self) -> list[int]:
        """The numbers of all that repeat others, ascending."""
        return sorted((*self.known, *self.within))


class IdReader:
    """The ids of a batch's fresh requests, as they are looked at for the first time."""

    def __init__(self, rules: Deduplicate) -> None:
        self.ids: list[bytes | None] = []
        self._by = rules.by

    def __call__(self, records: Sequence[Record]) -> None:
        """Read the ids of the next ones."""
        self.ids += _ids(self._by, records)


def find(
    recent: RecentIds, now: int, pieces: Sequence[PartitionSlice], runs: Sequence[Run], ids: Sequence[bytes | None]
) -> Repeats:
    """Find what of a batch repeats what came before. Retries, and what is decided anew, are not asked.

    `ids` are those of its fresh requests.
    """
    assert recent.rules is not None
    fresh = [piece for piece in pieces if piece.is_fresh]
    records = list(chain.from_iterable(piece.records for piece in fresh))
    found = Repeats(recent.digests(_ids_of(ids, runs)))
    places: dict[int, Place] = {}
    for number, place in recent.find(now, found.digests).items():
        piece = fresh[bisect_right(fresh, number, key=lambda piece: piece.first) - 1]
        if place != (piece.partition, records[number].offset):  # else it is itself: read again, as with at_least_once
            places[number] = place
    found.known = places
    if recent.differ(found.digests):
        return found
    first: dict[bytes, int] = {}
    for number in range(len(records)):
        digest = found.digests[BYTES * number : BYTES * (number + 1)]
        if digest != NO_ID and (other := first.setdefault(digest, number)) != number and number not in places:
            if _run(runs, other) != _run(runs, number):
                found.cut = number
                break
            found.within[number] = other
    if found.cut is not None:
        found.known = {number: place for number, place in places.items() if number < found.cut}
    return found


def _ids_of(ids: Sequence[bytes | None], runs: Sequence[Run]) -> Iterator[tuple[str, Sequence[bytes | None]]]:
    """Yield some ids by tenant, in slices that a processor's cache has room for."""
    end = 0
    for run in runs:
        first, stop = run.first, min(run.first + run.count, len(ids))
        if first >= stop:
            break
        if first > end:
            yield "", [None] * (first - end)  # they are refused already
        for at in range(first, stop, _SLICE):
            yield run.tenant, ids[at : min(at + _SLICE, stop)]
        end = stop
    if end < len(ids):
        yield "", [None] * (len(ids) - end)


def _ids(by: str, records: Sequence[Record]) -> list[bytes | None]:
    if by == KEY:
        return [record.key for record in records]
    header = _HEADERS.get(by, by)
    # mostly it is the last one of each
    last_ones = [headers[-1][1] for record in records if (headers := record.headers) and headers[-1][0] == header]
    if len(last_ones) == len(records):
        return last_ones
    ids: list[bytes | None] = []
    for record in records:
        value = None
        for name, given in record.headers:
            if name == header:
                value = given
        ids.append(value)
    return ids


def _run(runs: Sequence[Run], number: int) -> tuple[object, ...]:
    """Return what a request wishes for."""
    run = runs[bisect_right(runs, number, key=lambda run: run.first) - 1]
    return run.lane, run.cost, run.deadline, run.start


def without(runs: Sequence[Run], repeats: Repeats) -> list[Run]:
    """Leave out what repeats others, and all from the cut on."""
    left, gaps, end = [], iter(repeats.numbers), repeats.cut
    gap = next(gaps, None)
    for run in runs:
        first, stop = run.first, run.first + run.count
        if end is not None:
            stop = min(stop, end)
        while gap is not None and gap < stop:
            if gap > first:
                left.append(_part(run, first, gap))
            first, gap = gap + 1, next(gaps, None)
        if first < stop:
            left.append(run if (first, stop) == (run.first, run.first + run.count) else _part(run, first, stop))
    return left


def _part(run: Run, first: int, stop: int) -> Run:
    return Run(first, stop - first, run.lane, run.tenant, run.cost, run.deadline, run.start)


def settle(
    recent: RecentIds,
    now: int,
    topic: str,
    pieces: Sequence[PartitionSlice],
    decisions: Sequence[Decision],
    repeats: Repeats,
) -> list[RefusedRequest]:
    """Keep the ids of what was not rejected, and refuse what repeats others. `topic` is that of the requests."""
    fresh = [piece for piece in pieces if piece.is_fresh]
    places = array("Q")
    for piece in fresh:
        places.extend(_places(piece))
    digests, at = bytearray(), array("Q")
    for decision in decisions:
        if decision.verdict in _STAYING and decision.first < len(places):
            end = min(decision.first + decision.count, len(places))
            digests += repeats.digests[BYTES * decision.first : BYTES * end]
            at += places[decision.first : end]
    if NO_ID in digests:
        parts = [digests[start : start + BYTES] for start in range(0, len(digests), BYTES)]
        at = array("Q", [place for place, digest in zip(at, parts, strict=True) if digest != NO_ID])
        digests = bytearray().join(digest for digest in parts if digest != NO_ID)
    recent.keep(now, bytes(digests), at)
    refused = [_refused(number, topic, *place) for number, place in repeats.known.items()]
    for number, other in repeats.within.items():
        first = _decision(decisions, other)
        if first is None or first.verdict is Verdict.HELD:
            continue  # it is read again
        if first.verdict in _STAYING:
            refused.append(_refused(number, topic, *unpack(places[other])))
        else:
            partition, offset = unpack(places[other])
            why = f"repeats {topic}-{partition}@{offset} of the same batch, which was rejected"
            reason = first.reason or Reason.DUPLICATE
            refused.append(RefusedRequest(number, Refusal(Malformed("", why, reason.value))))
    return refused


def _places(piece: PartitionSlice) -> Sequence[int]:
    """Return the packed places of a piece's requests."""
    records = piece.records
    if not records:
        return ()
    base, first = pack((piece.partition, 0)), records[0].offset
    if records[-1].offset - first == len(records) - 1:  # offsets ascend: nothing is missing between them
        return range(base + first, base + first + len(records))
    return [base + record.offset for record in records]


def _decision(decisions: Sequence[Decision], number: int) -> Decision | None:
    found = bisect_right(decisions, number, key=lambda decision: decision.first) - 1
    return decisions[found] if found >= 0 and number < decisions[found].first + decisions[found].count else None


def _refused(number: int, topic: str, partition: int, offset: int) -> RefusedRequest:
    first = f"{topic}-{partition}@{offset}"
    malformed = Malformed("", f"the first one with this id is {first}", Reason.DUPLICATE.value)
    return RefusedRequest(number, Refusal(malformed, first=first))


def forget(recent: RecentIds, records: Sequence[tuple[Record, Place]]) -> None:
    """Forget the ids of requests that waited and are rejected now."""
    if recent.rules is None:
        return
    for record, place in records:
        tenant = (last(record.headers, TENANT) or b"").decode("utf-8", "replace")
        digest = recent.digests([(tenant, _ids(recent.rules.by, [record]))])
        if digest != NO_ID:
            recent.forget(digest, place)
