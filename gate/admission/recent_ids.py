"""Recent ids: which requests have come already, so that a second one of the same id is told from the first.

An id is kept as a keyed digest of 128 bits (BLAKE2b), with the place of its request and the time of its decision, some
50 bytes each. They are written in chunks, in the order in which they came: one state record each. An index, divided
into small open-addressing tables so that none takes long to be built anew, says which entry may be the one.
"""

import hashlib
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, cast

from gate.admission.model import MS
from gate.admission.state import VERSION, SeenRecord, encode
from gate.policy import Deduplicate

_SMALL: Final = 256  # entries: a chunk of fewer is written again with the next ones
_LARGE: Final = 4_096
_TABLES: Final = 256
_LOW: Final = _TABLES - 1
_NUMBER: Final = 24  # bits of an entry's number that a table keeps; the others of a slot are of its digest
_MASK: Final = (1 << _NUMBER) - 1
_FIRST: Final = 8  # slots of a new table
_PLACE: Final = 48  # bits of an offset
_NO_ID: Final = bytes(16)
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
        self._tables: list[array[int]] = []
        self._used: list[int] = []  # slots, by table
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
            self._tables, self._used = [], []
            return
        key = f"{salt}/{rules.by}/{self._service}".encode()[:64]
        self._hash = hashlib.blake2b(digest_size=16, key=key)
        self._bound()

    def digests(self, tenant: str, ids: Iterable[bytes | None]) -> list[bytes | None]:
        """Return the digest of each id of a tenant; None for those without one."""
        prefix, copy = tenant.encode() + b"\0", self._hash.copy
        digests: list[bytes | None] = []
        for name in ids:
            if name:
                state = copy()
                state.update(prefix + name)
                digests.append(state.digest())
            else:
                digests.append(None)
        return digests

    def find(self, now: int, digests: Sequence[bytes | None]) -> dict[int, Place]:
        """Return the place of the first request of each id that is known, by the number of the digest; now in ns."""
        assert self.rules is not None
        if not self._tables:
            return {}
        known, tables, since = {}, self._tables, now // MS - self.rules.time // MS
        given = [digest or _NO_ID for digest in digests] if None in digests else cast("Sequence[bytes]", digests)
        joined = array("Q", b"".join(given))
        if sys.byteorder == "big":
            joined.byteswap()
        for index, head in enumerate(joined[::2]):
            table, mark = tables[head & _LOW], head >> _NUMBER | 1
            size = len(table)
            at = (mark >> 1) % size
            while slot := table[at]:
                if slot >> _NUMBER == mark and (digest := digests[index]) is not None:
                    place = self._place(slot & _MASK, digest, since)
                    if place is not None:
                        known[index] = place
                        break
                at += 1
                if at == size:
                    at = 0
        return known

    def keep(self, now: int, digests: Sequence[bytes], places: Sequence[int]) -> None:
        """Note requests that were decided at `now`, ns, and not rejected, by their packed places."""
        assert self.rules is not None
        if not digests:
            return
        if not self._tables:
            self._tables = [array("Q", bytes(8 * _FIRST)) for _ in range(_TABLES)]
            self._used = [0] * _TABLES
        at, done = now // MS, 0
        while done < len(digests):
            chunk = self._open(at)
            room = _LARGE - len(chunk.places)
            part = digests[done : done + room]
            chunk.digests += b"".join(part)
            chunk.places.extend(places[done : done + room])
            chunk.ats.extend([at - chunk.at] * len(part))
            self._changed[chunk.name] = chunk
            self._index(b"".join(part), self._next)
            self._next += len(part)
            done += len(part)
        self._expire(at)

    def forget(self, digest: bytes, place: Place) -> bool:
        """Forget a request: it was rejected after all. Tells whether it was known."""
        packed = pack(place)
        if not self._tables:
            return False
        head = int.from_bytes(digest[:8], "little")
        table, mark = self._tables[head % _TABLES], head >> _NUMBER | 1
        at, size = (mark >> 1) % len(table), len(table)
        while slot := table[at]:
            found = self._entry(slot & _MASK) if slot >> _NUMBER == mark else None
            if found is not None and found[0].places[found[1]] == packed:
                chunk, index = found
                chunk.places[index] = _GONE
                self._changed[chunk.name] = chunk
                return True
            at = (at + 1) % size
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
            if not self._tables:
                self._tables = [array("Q", bytes(8 * _FIRST)) for _ in range(_TABLES)]
                self._used = [0] * _TABLES
            self._index(record.digests, self._next)
            self._next += len(chunk.places)
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

    def _entry(self, low: int) -> tuple[_Chunk, int] | None:
        """Return the entry whose number ends with `low`, if it counts yet."""
        number = self._floor + (low - self._floor & _MASK)
        if number >= self._next:
            return None
        chunk = self._chunks[bisect_right(self._firsts, number) - 1]
        return chunk, number - chunk.first

    def _place(self, low: int, digest: bytes, since: int) -> Place | None:
        """Return the place of an entry, if it is of this digest and was decided after `since`."""
        found = self._entry(low)
        if found is None:
            return None
        chunk, index = found
        packed = chunk.places[index]
        if (
            packed == _GONE
            or chunk.at + chunk.ats[index] <= since
            or chunk.digests[16 * index : 16 * index + 16] != digest
        ):
            return None
        return unpack(packed)

    def _index(self, joined: bytes, number: int) -> None:
        """Enter digests under consecutive numbers."""
        heads = array("Q", joined)
        if sys.byteorder == "big":
            heads.byteswap()
        tables, used = self._tables, self._used
        for head in heads[::2]:
            which = head & _LOW
            table = tables[which]
            size = len(table)
            if 3 * used[which] >= 2 * size:
                self._build(which, number)
                table = tables[which]
                size = len(table)
            mark = head >> _NUMBER | 1
            at = (mark >> 1) % size
            while table[at]:
                at += 1
                if at == size:
                    at = 0
            table[at] = mark << _NUMBER | number & _MASK
            used[which] += 1
            number += 1

    def _build(self, which: int, end: int) -> None:
        """Build a table anew, without the entries that do not count any more."""
        floor, alive = self._floor, end - self._floor
        left = [slot for slot in self._tables[which] if slot and (slot - floor & _MASK) < alive]
        size = max(_FIRST, 3 * len(left) + 1)
        table = self._tables[which] = array("Q", bytes(8 * size))
        self._used[which] = len(left)
        for slot in left:
            at = (slot >> _NUMBER + 1) % size
            while table[at]:
                at += 1
                if at == size:
                    at = 0
            table[at] = slot

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
