"""Index of recent ids: from 32 bits of an id's digest to the newest entry that has them, and on to the ones before.

A table of chains in two flat columns, of 4 bytes an entry and at most 24 for each that may come in the table, that is
asked and told about a batch in a few passes. It grows beside its work, fourfold as that is rarely: the larger one is
filled with each batch a bit more, and takes its place when it has caught up, so that no batch waits for it.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final

_FEWEST: Final = 64  # slots
_SPARSE: Final = 3  # slots to an entry at the least: the fewer entries share one, the rarer is a look in vain
_STEP: Final = 8_192  # entries that a larger table takes in with a batch at the least: some 0.7 ms
_PACE: Final = 4  # times as many as came
_GROWTH: Final = 4
_EMPTY: Final = 16  # an index with room for so many times what it holds is made smaller
LAST: Final = 2**32 - 1  # the last number that an entry may have


class IdIndex:
    """Entries by 32 bits of their digests. Entries are numbered from 1, without gaps."""

    __slots__ = ("_before", "_first", "_mask", "_table")

    def __init__(self, first: int, slots: int = _FEWEST) -> None:
        self._table = array("I", bytes(4 * slots))
        self._mask = slots - 1
        self._before = array("I")  # of each entry, the one before it in its chain; 0: none
        self._first = first  # the number of the first of these

    @property
    def end(self) -> int:
        """The number of the next entry."""
        return self._first + len(self._before)

    @property
    def slots(self) -> int:
        """How large its table is."""
        return len(self._table)

    def candidates(self, words: Sequence[int]) -> list[tuple[int, int]]:
        """Return the place in `words` and the number of the newest entry that may have it; mostly there is none."""
        mask = self._mask
        newest = map(self._table.__getitem__, [word & mask for word in words])
        return [(place, number) for place, number in enumerate(newest) if number]

    def before(self, number: int) -> int:
        """Return the next older entry that may have the same digest; 0: none."""
        place = number - self._first
        return self._before[place] if place >= 0 else 0

    def chain(self, word: int, floor: int) -> Iterator[int]:
        """Yield the numbers of entries from `floor` on that may have a digest, newest first."""
        number = self._table[word & self._mask]
        while number >= floor and number:
            yield number
            number = self.before(number)

    def add(self, words: Sequence[int]) -> None:
        """Enter the next entries."""
        table, mask, number, note = self._table, self._mask, self.end, self._before.append
        for word in words:
            slot = word & mask
            note(table[slot])
            table[slot] = number
            number += 1

    def drop(self, floor: int) -> None:
        """Let go of what is kept of entries below `floor`, once it is worth it."""
        over = floor - self._first
        if over > len(self._before) // 8:
            del self._before[:over]
            self._first += over


class GrowingIndex:
    """An index as large as what it holds asks for, and while that changes, the one that is to take its place."""

    def __init__(self, words_from: Callable[[int, int], Sequence[int]], first: int = 1, entries: int = 0) -> None:
        """Take a way to read the words of some of the entries from a number on, of at most so many, once more."""
        self.now = IdIndex(first, _slots_for(entries))
        self._next: IdIndex | None = None
        self._words_from = words_from

    def add(self, words: Sequence[int], floor: int, most: int) -> None:
        """Enter the next entries; those below `floor` do not count any more, and never more than `most` do."""
        self.now.add(words)
        self.now.drop(floor)
        alive, slots = self.now.end - floor, self.now.slots
        if self._next is None and not slots // _EMPTY <= _SPARSE * alive <= slots:
            least = _slots_for(alive)
            if least > slots:
                self._next = IdIndex(floor, max(least, min(_GROWTH * slots, _slots_for(most))))
            elif slots > _STEP:
                self._next = IdIndex(floor, least)
        if self._next is not None:
            self._fill(self._next, floor, max(_STEP, _PACE * len(words)))

    def _fill(self, other: IdIndex, floor: int, most: int) -> None:
        other.drop(floor)
        while most > 0 and other.end < self.now.end:
            part = self._words_from(other.end, most)
            other.add(part)
            most -= len(part)
        if other.end == self.now.end:
            self.now, self._next = other, None


def _slots_for(entries: int) -> int:
    """Return how many slots there are to be: a power of two."""
    return max(_FEWEST, 1 << (_SPARSE * entries - 1).bit_length()) if entries else _FEWEST


def words_of(digests: bytes | bytearray, length: int) -> "array[int]":
    """Return the first 32 bits of each of some digests that are `length` bytes long."""
    return array("I", digests)[:: length // 4]
