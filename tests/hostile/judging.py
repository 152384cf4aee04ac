"""What must hold of what a run has left in its topics: each request ended once, as itself, and innocents went on.

Pure: times are ms of the broker's clock.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.hostile.decoding import Header, Read, records
from tests.hostile.encoding import Headers

STAMP: Final = re.compile(rb'(admitted|rejected|delayed);id="([^"\\]*)";at=(\d+);')
STAMPS: Final = re.compile(rb'\x08gate..?(?:admitted|rejected);id="([^"\\]+)"', re.DOTALL)
REASON: Final = re.compile(rb";reason=([a-z-]+)")
SHOWN: Final = 12


class Content(NamedTuple):
    """Checksums of what a request holds; None of what it has not."""

    key: int | None
    value: int | None
    headers: int


def content(record: Read) -> Content:
    """Return the checksums of a record, its own headers without those that are the gate's."""
    return Content(_sum(record.key), _sum(record.value), _headers(record.headers))


def _sum(data: bytes | None) -> int | None:
    return None if data is None else zlib.crc32(data)


def _headers(headers: Headers) -> int:
    found = 0
    for name, value in headers:
        if not name.startswith(b"gate") and name != b"retry-after":
            found = zlib.crc32(b"%d %b %b" % (len(name), name, b"-" if value is None else value), found)
    return found


@dataclass
class Judge:
    """Takes requests and their ends, in any order. `plainly`: counts ends, and looks at no contents."""

    plainly: bool = False
    requests: dict[bytes, Content | None] = field(default_factory=dict)
    arrived: dict[bytes, int] = field(default_factory=dict)  # innocents', ms
    ends: Counter[bytes] = field(default_factory=Counter)
    decided: dict[bytes, int] = field(default_factory=dict)  # innocents', ms
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    _ended: dict[bytes, tuple[str, Content]] = field(default_factory=dict)

    def request(self, topic: str, partition: int, batch: Header, start: int, *, innocent: bool) -> None:
        """Take a batch of requests; those before `start` have been deleted."""
        source = f"{topic}-{partition}@".encode()
        if self.plainly and not innocent and batch.is_whole:
            for offset in range(max(start, batch.base), batch.next_offset):
                self.requests[b"%b%d" % (source, offset)] = None
            return
        for record in records(batch):
            if record.offset < start:
                continue
            place = b"%b%d" % (source, record.offset)
            self.requests[place] = content(record)
            if innocent:
                self.arrived[place] = record.timestamp

    def end(self, topic: str, partition: int, batch: Header, *, admitted: bool, innocent: bool = False) -> None:
        """Take a batch of the admitted or the rejected topic."""
        verdict = "admitted" if admitted else "rejected"
        if self.plainly and not innocent and not batch.attributes & 7:
            for place in STAMPS.findall(batch.payload):
                self.ends[place] += 1
                self.verdicts[verdict] += 1
            return
        for record in records(batch):
            where = f"{topic}-{partition} offset {record.offset}"
            stamps = [value or b"" for name, value in record.headers if name == b"gate"]
            found = STAMP.match(stamps[0]) if len(stamps) == 1 else None
            if found is None or found[1].decode() != verdict:
                self._wrong("stamp", f"{where}: {len(stamps)} stamps: {b', '.join(stamps)[:200]!r}")
                continue
            place, reason = found[2], REASON.search(stamps[0])
            self.ends[place] += 1
            self.verdicts[f"rejected, {reason[1].decode()}" if reason and not admitted else verdict] += 1
            self.decided[place] = int(found[3])
            self._ended[place] = verdict, content(record)

    def unended(self) -> list[bytes]:
        """Return the requests that have no end yet."""
        return [place for place in self.requests if place not in self.ends]

    def problems(self) -> list[str]:
        """Return what is wrong, the worst of each kind by name."""
        for place, (verdict, got) in self._ended.items():
            wanted = self.requests.get(place)
            if wanted is not None and (why := _differs(verdict, wanted, got)):
                self._wrong("content", f"{verdict} {place.decode()} has another {why} than the request")
        self._name("unknown", "are no requests, and ended", (p for p in self.ends if p not in self.requests))
        twice = (place for place, count in self.ends.items() if count > 1 and place in self.requests)
        self._name("twice", "ended more than once", twice)
        self._name("lost", "never ended", self.unended())
        return [
            line
            for kind, lines in sorted(self.wrong.items())
            for line in (f"{kind}:", *(f"  {line}" for line in lines[:SHOWN]))
        ]

    def _name(self, kind: str, what: str, places: Iterable[bytes]) -> None:
        """Note what is wrong with requests by partition."""
        found: dict[str, list[str]] = {}
        for place in places:
            source, _, offset = place.decode(errors="backslashreplace").rpartition("@")
            found.setdefault(source, []).append(offset)
        for source, offsets in found.items():
            more = ", ..." if len(offsets) > SHOWN else ""
            self._wrong(kind, f"{len(offsets):,} of {source} {what}: {', '.join(offsets[:SHOWN])}{more}")

    def _wrong(self, kind: str, line: str) -> None:
        self.wrong.setdefault(kind, []).append(line)


def _differs(verdict: str, wanted: Content, got: Content) -> str:
    """Tell what of a request has not come through. Of a rejected one the value may be left out, and headers."""
    if verdict == "admitted":
        return next((name for name, a, b in zip(Content._fields, wanted, got, strict=True) if a != b), "")
    if got.key not in {wanted.key, None}:
        return "key"
    return "value" if got.value not in {wanted.value, None} else ""


class Pause(NamedTuple):
    """A time in which requests waited and none was decided."""

    start: int
    end: int

    @property
    def ms(self) -> int:
        return self.end - self.start


def pauses(decisions: Iterable[tuple[int, int]]) -> list[Pause]:
    """Return the pauses in decisions, given as (when the request came, when it was decided): one for each moment."""
    waited: dict[int, int] = {}  # moment of decision -> when the first of its requests came
    for came, at in decisions:
        waited[at] = min(came, waited.get(at, came))
    found, last = [], 0
    for at, came in sorted(waited.items()):
        found.append(Pause(max(last, min(came, at)), at))
        last = at
    return found


def longest(found: Iterable[Pause], start: float, end: float, without: Sequence[tuple[float, float]] = ()) -> int:
    """Return the longest pause that ends in `start` to `end`, in ms; the time of `without` is not counted."""
    worst = 0
    for pause in found:
        if not start <= pause.end <= end:
            continue
        spans = [(pause.start, pause.end)]
        for low, high in without:
            spans = [part for a, b in spans for part in ((a, min(b, low)), (max(a, high), b)) if part[0] < part[1]]
        worst = max(worst, *(round(b - a) for a, b in spans), 0)
    return worst


def taken_over(decided: Mapping[int, Sequence[int]], kill: int, shards: Iterable[int]) -> dict[int, int | None]:
    """Return ms until the next decision of each shard whose owner was killed; `decided` ascends. None: none came."""
    return {shard: next((at - kill for at in decided.get(shard, ()) if at > kill), None) for shard in shards}
