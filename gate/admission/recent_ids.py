"""Recent ids: which requests have come already, so that a second one of the same id is told from the first.

An id is kept as a keyed digest of 128 bits (BLAKE2s), with the place of its request and the time of its decision, some
50 bytes each with the index that says which entry may be the one. They are written in chunks, in the order in which
they came: one state record each.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b, blake2s
from typing import Final, cast

from gate.admission.id_index import LAST, GrowingIndex, words_of
from gate.admission.model import MS
from gate.admission.state import VERSION, SeenRecord, encode
from gate.policy import Deduplicate

_SMALL: Final = 256  # entries: a chunk of fewer is written again with the next ones
_LARGE: Final = 4_096
BYTES: Final = 16  # bytes of a digest
_PLACE: Final = 48  # bits of an offset
NO_ID: Final = bytes(BYTES)
_MADE_OF_NONE: Final = bytes(32)  # as a digest is made: all of it is made faster than a part
_GONE: Final = 2**64 - 1  # the place of what is forgotten
_SPAN: Final = 2**32 - 1  # ms that a chunk may take

Place = tuple[int, int]  # partition and offset of a request


class _Chunk:
    """Entries that are written together."""

    __slots__ = ("at", "ats", "digests", "first", "name", "places")

    def __init__(self, name: int, first: int, at: int) -> None:
        self.name = name
        self.first = first  # the number of its first entry
        self.at = at  # ms
        self.digests = bytearray()
        self.places = array("Q")
        self.ats = array("I")  # ms since `at`

    def place(self, entry: int, since: int) -> Place | None:
        """Return the place of an entry that was decided after `since`, ms, and is not forgotten."""
        packed = self.places[entry]
        return None if packed == _GONE or self.at + self.ats[entry] <= since else unpack(packed)

    def record(self) -> SeenRecord:
        return SeenRecord(self.at, bytes(self.digests), _little(self.places).tobytes(), _little(self.ats).tobytes())


class RecentIds:
    """The ids of one service's requests that were not rejected, of a length of time and a number at most."""

    def __init__(self, service: str, salt: int, rules: Deduplicate | None) -> None:
        self.forgotten = 0  # ids within their time that had to make room, since this was made
        self._service = service
        self._prefix = f"seen/{service}/"
        self._chunks: list[_Chunk] = []
        self._firsts: list[int] = []
        self._index: GrowingIndex | None = None
        self._next = 1  # the number of the next entry
        self._floor = 1  # entries below do not count
        self._name = 0  # of the newest chunk
        self._changed: dict[int, _Chunk] = {}
        self._gone: list[str] = []
        self.follow(rules, salt)

    def __len__(self) -> int:
        return self._next - self._floor

    def follow(self, rules: Deduplicate | None, salt: int) -> None:
        """Take other rules; without any, all is forgotten."""
        self.rules = rules
        if rules is None:
            self._drop(len(self._chunks))
            self._floor = self._next
            self._index = None
            return
        # in front of each id, which fits with it into one block mostly: a key of the algorithm's own takes one more
        self._key = blake2b(f"{salt}/{rules.by}/{self._service}".encode(), digest_size=16).digest()
        self._bound()

    def digests(self, parts: Iterable[tuple[str, Sequence[bytes | None]]]) -> bytes:
        """Return the digest of each id of each tenant, one behind the other; zeros for those without one.

        They are one value, as thousands of objects would not fit into the processor's cache.
        """
        made = bytearray()
        for tenant, ids in parts:
            prefix = self._key + tenant.encode() + b"\0"
            if all(ids):
                made += b"".join([blake2s(prefix + name).digest() for name in cast("Sequence[bytes]", ids)])
            else:
                made += b"".join([blake2s(prefix + name).digest() if name else _MADE_OF_NONE for name in ids])
        words = array("Q", made)
        kept = array("Q", bytes(len(made) // 2))
        kept[::2], kept[1::2] = words[::4], words[1::4]
        return kept.tobytes()

    def find(self, now: int, digests: bytes) -> dict[int, Place]:
        """Return the place of the first request of each id that is known, by the number of the digest; now in ns."""
        assert self.rules is not None
        if self._index is None:
            return {}
        since, firsts, chunks = now // MS - self.rules.time // MS, self._firsts, self._chunks
        known: dict[int, Place] = {}
        for at, number in self._index.now.candidates(words_of(digests), self._floor):
            chunk = chunks[bisect_right(firsts, number) - 1]
            entry = BYTES * (number - chunk.first)
            digest = digests[BYTES * at : BYTES * (at + 1)]
            if at not in known and digest == chunk.digests[entry : entry + BYTES] and digest != NO_ID:
                place = chunk.place(entry // BYTES, since)
                if place is not None:
                    known[at] = place
        return known

    @staticmethod
    def differ(digests: bytes) -> bool:
        """Tell whether it is certain that no two of some digests are alike."""
        words = words_of(digests)
        return len(set(words)) == len(words)

    def keep(self, now: int, digests: bytes, places: "array[int]") -> None:
        """Note requests that were decided at `now`, ns, and not rejected, by their packed places."""
        assert self.rules is not None
        count = len(places)
        if not count:
            return
        if self._next + count > LAST:
            self._renumber()
        if self._index is None:
            self._index = GrowingIndex(self._words, self._next)
        at, done = now // MS, 0
        while done < count:
            chunk = self._open(at)
            more = min(_LARGE - len(chunk.places), count - done)
            chunk.digests += digests[BYTES * done : BYTES * (done + more)]
            chunk.places.extend(places[done : done + more])
            chunk.ats.extend([at - chunk.at] * more)
            self._changed[chunk.name] = chunk
            done += more
            self._next += more
        self._index.add(words_of(digests), self._floor, self.rules.at_most)
        self._expire(at)

    def forget(self, digest: bytes, place: Place) -> bool:
        """Forget a request: it was rejected after all. Tells whether it was known."""
        if self._index is None:
            return False
        packed = pack(place)
        for number in self._index.now.chain(words_of(digest)[0], self._floor):
            chunk, at = self._entry(number)
            if chunk.places[at] == packed:
                chunk.places[at] = _GONE
                self._changed[chunk.name] = chunk
                return True
        return False

    def drain_changes(self, version: int = VERSION) -> dict[str, bytes | None]:
        """Return the records that changed since the last call; None: delete."""
        records: dict[str, bytes | None] = dict.fromkeys(self._gone)
        for chunk in self._changed.values():
            records[f"{self._prefix}{chunk.name}"] = encode(chunk.record(), version)
        self._gone.clear()
        self._changed.clear()
        return records

    def restore(self, records: Iterable[tuple[int, SeenRecord]]) -> Iterator[None]:
        """Take the chunks in the order of their names, in slices of one."""
        for name, record in records:
            chunk = _Chunk(name, self._next, record.at)
            chunk.digests = bytearray(record.digests)
            chunk.places, chunk.ats = _little(array("Q", record.places)), _little(array("I", record.ats))
            self._enter(chunk)
            if self._index is None:
                self._index = GrowingIndex(self._words, self._next)
            self._next += len(chunk.places)
            self._index.add(words_of(record.digests), self._floor, 0 if self.rules is None else self.rules.at_most)
            yield
        self.forgotten = 0
        if self.rules is None:
            self.follow(None, 0)
        else:
            self._bound()

    def _open(self, at: int) -> _Chunk:
        """Return the chunk that takes the next entries."""
        last = self._chunks[-1] if self._chunks else None
        if last is not None and len(last.places) < _SMALL and 0 <= at - last.at <= _SPAN:
            return last
        chunk = _Chunk(self._name + 1, self._next, at)
        self._enter(chunk)
        return chunk

    def _enter(self, chunk: _Chunk) -> None:
        self._name = chunk.name
        self._chunks.append(chunk)
        self._firsts.append(chunk.first)

    def _entry(self, number: int) -> tuple[_Chunk, int]:
        chunk = self._chunks[bisect_right(self._firsts, number) - 1]
        return chunk, number - chunk.first

    def _words(self, number: int, most: int) -> "array[int]":
        """Return what the index keeps of some entries, from a number on."""
        chunk, index = self._entry(number)
        return words_of(chunk.digests[BYTES * index : BYTES * (index + most)])

    def _renumber(self) -> None:
        """Count from 1 again: numbers have to fit into 32 bits. Takes a second after four thousand million ids."""
        over = self._firsts[0] - 1 if self._firsts else self._next - 1
        self._next, self._floor = self._next - over, self._floor - over
        self._firsts = [first - over for first in self._firsts]
        for chunk, first in zip(self._chunks, self._firsts, strict=True):
            chunk.first = first
        self._index = GrowingIndex(self._words, 1, len(self))
        for chunk in self._chunks:
            self._index.now.add(words_of(chunk.digests))

    def _expire(self, at: int) -> None:
        """Drop chunks that are too old as a whole, and what is beyond the number."""
        assert self.rules is not None
        since, old = at - self.rules.time // MS, 0
        while old < len(self._chunks) and self._chunks[old].at + self._chunks[old].ats[-1] <= since:
            old += 1
        if old:
            self._floor = max(self._floor, self._chunks[old].first if old < len(self._chunks) else self._next)
            self._drop(old)
        self._bound()

    def _bound(self) -> None:
        assert self.rules is not None
        over = len(self) - self.rules.at_most
        if over > 0:
            self.forgotten += over
            self._floor += over
        below = bisect_right(self._firsts, self._floor) - 1  # the last may hold some that count
        if below > 0:
            self._drop(below)

    def _drop(self, count: int) -> None:
        for chunk in self._chunks[:count]:
            self._gone.append(f"{self._prefix}{chunk.name}")
            self._changed.pop(chunk.name, None)
        del self._chunks[:count], self._firsts[:count]


def pack(place: Place) -> int:
    """Return a place as one number, in which those of a partition ascend with the offset."""
    return place[0] << _PLACE | place[1]


def unpack(packed: int) -> Place:
    """Return what `pack` made a number of."""
    return packed >> _PLACE, packed & (1 << _PLACE) - 1


def _little(column: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column
