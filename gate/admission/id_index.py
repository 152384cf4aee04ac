"""Index of recent ids: from 32 bits of an id's digest to the newest entry that has them, and on to the ones before.

A table of chains in three flat columns, of 5 bytes an entry and at most 24 for each that may come in the table, that is
asked and told about a batch in a few passes. One byte of each digest stands beside its place in the chain, so that a
chain is gone along without a look at what it leads to. A table that has become too small is written behind itself
several times: whatever slot a digest has in the larger one, its chain begins there, with others that are passed over.
That takes a thousandth of the time of entering all once more.
"""

import sys
from array import array
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Final

_FEWEST: Final = 64  # slots
_SPARSE: Final = 3  # slots to an entry at the least: the fewer entries share one, the rarer is a look in vain
_STEP: Final = 8_192  # entries that a smaller table takes in with a batch at the least: some 0.7 ms
_PACE: Final = 4  # times as many as came
_GROWTH: Final = 16  # as it is rarely: each time leaves chains that are a third of an entry longer
_EMPTY: Final = 64  # an index with room for so many times what it holds is made smaller
_HIGH: Final = 3 if sys.byteorder == "little" else 0  # the byte of a word that counts least for its slot
LAST: Final = 2**32 - 1  # the last number that an entry may have


class IdIndex:
    """Entries by 32 bits of their digests. Entries are numbered from 1, without gaps."""

    __slots__ = ("_before", "_first", "_high", "_mask", "_table")

    def __init__(self, first: int, slots: int = _FEWEST) -> None:
        self._table = array("I", bytes(4 * slots))
        self._mask = slots - 1
        self._before = array("I")  # of each entry, the one before it in its chain; 0: none
        self._high = bytearray()  # of each entry, a byte of its word
        self._first = first  # the number of the first of these

    @property
    def end(self) -> int:
        """The number of the next entry."""
        return self._first + len(self._before)

    @property
    def slots(self) -> int:
        """How large its table is."""
        return len(self._table)

    def candidates(self, words: "array[int]", floor: int) -> Iterator[tuple[int, int]]:
        """Yield the place in `words` and the number of each entry from `floor` on that may have it.

        Of one place the newest entry comes first. One in 256 of those that share a slot is told wrongly.
        """
        mask, before, high, first = self._mask, self._before, self._high, self._first
        least = max(first, floor, 1)
        slots = [word & mask for word in words]
        newest = itemgetter(*slots)(self._table) if len(slots) > 1 else [self._table[slot] for slot in slots]
        asked = words.tobytes()[_HIGH::4]
        some = [(place, number) for place, number in enumerate(newest) if number >= least]
        while some:
            yield from [found for found in some if high[found[1] - first] == asked[found[0]]]
            some = [(place, older) for place, number in some if (older := before[number - first]) >= least]

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

    def add(self, words: "array[int]") -> None:
        """Enter the next entries."""
        self._high += words.tobytes()[_HIGH::4]
        table, mask, number, note = self._table, self._mask, self.end, self._before.append
        for word in words:
            slot = word & mask
            note(table[slot])
            table[slot] = number
            number += 1

    def grow(self, slots: int) -> None:
        """Have as many slots, a multiple of those it has."""
        self._table *= slots // self.slots
        self._mask = slots - 1

    def drop(self, floor: int) -> None:
        """Let go of what is kept of entries below `floor`, once it is worth it."""
        over = floor - self._first
        if over > len(self._before) // 8:
            del self._before[:over], self._high[:over]
            self._first += over


class GrowingIndex:
    """An index as large as what it holds asks for, and where that is much less, the one that is to take its place."""

    def __init__(self, words_from: Callable[[int, int], "array[int]"], first: int = 1, entries: int = 0) -> None:
        """Take a way to read the words of some of the entries from a number on, of at most so many, once more."""
        self.now = IdIndex(first, _slots_for(entries))
        self._next: IdIndex | None = None
        self._words_from = words_from

    def add(self, words: "array[int]", floor: int, most: int) -> None:
        """Enter the next entries; those below `floor` do not count any more, and never more than `most` do."""
        self.now.add(words)
        self.now.drop(floor)
        alive, slots = self.now.end - floor, self.now.slots
        if _SPARSE * alive > slots:
            least = _slots_for(alive)
            larger = max(least, min(_GROWTH * slots, _slots_for(most)))
            self._next = None
            if alive > _STEP:
                self.now.grow(larger)
            else:
                self._next = IdIndex(floor, larger)
        elif self._next is None and slots > _STEP and slots // _EMPTY > _SPARSE * alive:
            self._next = IdIndex(floor, _slots_for(alive))
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


def words_of(digests: bytes | bytearray) -> "array[int]":
    """Return the first 32 bits of each of some digests of 16 bytes."""
    return array("I", digests)[::4]
