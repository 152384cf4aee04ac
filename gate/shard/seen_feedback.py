"""Feedback that was seen of a partition's admitted records, so that who tells it again gets no second retry.

A worker that is killed tells again what it had told since its last commit. A group is remembered by the offset before
which all is finished, as its workers say, and by what was told behind that.
"""

from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise
from typing import Final

import msgspec
from msgspec import field

from gate.admission.state import VERSION, decode, encode
from gate.units import Ms

MOST_GROUPS: Final = 8  # of a partition; beyond, the one that was silent for longest is forgotten
# Of a group. Its workers hold at most 10,000 jobs behind one that is not done, so no honest one comes from below these.
MOST_TOLD: Final = 16_384


class GroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One group: see `_Group`; each offset as its distance from the one before, the first from the floor."""

    floor: int = field(name="f")
    distances: list[int] = field(name="d")
    top: int = field(name="t")
    at: Ms = field(name="a")


class SeenFeedbackRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`told/<service>/<partition>`, by group."""

    groups: dict[str, GroupRecord] = field(name="g")


class _Group:
    __slots__ = ("at", "floor", "offsets", "top")

    def __init__(self, floor: int = 0, offsets: list[int] | None = None, top: int = -1, at: int = 0) -> None:
        self.floor = floor
        self.offsets = offsets or []  # ascending, none below the floor
        self.top = top  # the highest offset that was told of
        self.at = at  # when that was admitted, unix ms


class SeenFeedback:
    """One partition's groups, the one that told last at the end."""

    def __init__(self, groups: dict[str, _Group] | None = None) -> None:
        self._groups: dict[str, _Group] = groups or {}

    def take(self, group: str, offset: int, settled: int, at: int = 0) -> bool:
        """Note that `group` has told of the record at `offset`. False: it had, or has finished all up to there.

        `settled` is what it says of that; it can't go beyond what is told right now. `at` is when the record was
        admitted, unix ms: what lies before another and was admitted later is in a topic that was made anew.
        """
        known = self._touch(group)
        if offset <= known.top and at > known.at:
            known = self._groups[group] = _Group()
        if offset > known.top:
            known.top, known.at = offset, at
        self._raise(known, min(settled, offset))
        at = bisect_left(known.offsets, offset)
        if offset < known.floor or (at < len(known.offsets) and known.offsets[at] == offset):
            return False
        known.offsets.insert(at, offset)
        if len(known.offsets) > MOST_TOLD:
            self._raise(known, known.offsets[0] + 1)
        return True

    def settle(self, group: str, offset: int) -> None:
        """Note that `group` has finished all before `offset`."""
        self._raise(self._touch(group), offset)

    def _touch(self, group: str) -> _Group:
        known = self._groups.pop(group, None) or _Group()
        self._groups[group] = known
        if len(self._groups) > MOST_GROUPS:
            del self._groups[next(iter(self._groups))]
        return known

    @staticmethod
    def _raise(known: _Group, floor: int) -> None:
        if floor > known.floor:
            known.floor = floor
            del known.offsets[: bisect_right(known.offsets, floor - 1)]

    def dump(self, version: int = VERSION) -> bytes:
        """Return the state record."""
        return encode(SeenFeedbackRecord({name: _dump(group) for name, group in self._groups.items()}), version)

    @classmethod
    def load(cls, key: str, data: bytes) -> "SeenFeedback":
        """Read a state record. Raises StateError."""
        return cls({name: _load(group) for name, group in decode(key, data, SeenFeedbackRecord).groups.items()})


def _dump(group: _Group) -> GroupRecord:
    distances = [after - before for before, after in pairwise((group.floor, *group.offsets))]
    return GroupRecord(group.floor, distances, group.top, group.at)


def _load(record: GroupRecord) -> _Group:
    offsets = list(accumulate(record.distances, initial=record.floor))[1:]
    return _Group(record.floor, offsets, record.top, record.at)
