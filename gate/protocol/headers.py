"""The headers of a request: what its producer wishes for, and the stamp of the gate's decision.

Headers are pairs of name and bytes, as aiokafka gives and takes them. Reading and stamping happen for every record, so
both work on bytes and leave alone what does not concern them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import http_sf
import msgspec

Headers: TypeAlias = Iterable[tuple[str, bytes | None]]

PRIORITY: Final = "gate-priority"
TENANT: Final = "gate-tenant"
COST: Final = "gate-cost"
DEADLINE: Final = "gate-deadline"
START: Final = "gate-start"  # not before, unix ms
ID: Final = "gate-id"  # the producer's own; passed on, and read only where each is to come once
STAMP: Final = "gate"
RETRY_AFTER: Final = "retry-after"
NOT_BEFORE: Final = "gate-not-before"
ERROR_ATTEMPTS: Final = "gate-error-attempts"  # on a job that its workers gave up, beside its error
JOB_ID: Final = "gate-job-id"  # on a retry: the id of the first request about the job
JOB_ATTEMPT: Final = "gate-job-attempt"  # counts a job's attempts from 1
JOB_GROUP: Final = "gate-job-group"  # the workers' group that wants the retry; to others the job is done
JOB_BACKOFFS: Final = "gate-job-backoffs"  # how often a job was put off as its service wanted to be left alone
JOB_NOT_BEFORE: Final = "gate-job-not-before"  # when its next attempt is due, unix ms, where START can't say it
ERROR: Final = "gate-error"  # on a request that can't go on: which header, and why

MAX_LANE_BYTES: Final = 64
MAX_TENANT_BYTES: Final = 256
MAX_COST: Final = 2**63 - 1
# Unix milliseconds of 1973 and of the end of 9999: what lies outside was meant in seconds, micro- or nanoseconds.
DEADLINE_RANGE: Final = (10**11, 253_402_300_799_999)
START_RANGE: Final = (DEADLINE_RANGE[0], 4 * 10**12)  # to 2096: later times do not fit into ns of 64 bits
MAX_CREATED: Final = 10**15 - 1  # the largest integer of RFC 9651; a producer may give any

FAULT: Final = "\udcff"  # on a record that could not be read as it is: no name that a producer can give
MALFORMED: Final = "malformed"
UNFORWARDABLE: Final = "unforwardable"
_WISHES: Final = frozenset({PRIORITY, TENANT, COST, DEADLINE, START, FAULT})
_STAMPED: Final = frozenset({STAMP, NOT_BEFORE, FAULT})  # and RETRY_AFTER, where it stands directly behind a stamp
# only the gate's own retries carry them
CLAIMED: Final = frozenset({JOB_ID, JOB_ATTEMPT, JOB_GROUP, JOB_BACKOFFS, JOB_NOT_BEFORE})
_DROPPED: Final = _STAMPED | CLAIMED  # of a request that a producer wrote
OURS: Final = _WISHES | _STAMPED | CLAIMED  # what the gate reads or replaces
_VERDICTS: Final = frozenset({"admitted", "delayed", "rejected"})
_INTEGER: Final = re.compile(rb"0|[1-9][0-9]{0,18}")
_DIGITS: Final = len(str(MAX_CREATED))
_MOST_DIGITS: Final = 18
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN_STRING: Final = re.compile(r"[ !#-\[\]-~]*")
_ORIGIN: Final = re.compile(rb'[a-z]+;id="([^"\\]*)";at=([0-9]+);attempt=([0-9]+);(?:origin="([^"\\]*)";)?')


class RequestOptions(msgspec.Struct, frozen=True):  # a dataclass takes four times as long to make, and to compare
    """What a producer asks for. Empty lane or tenant: none named. `deadline_ms` and `start_ms` are unix ms."""

    lane: str = ""
    tenant: str = ""
    cost: int = 1
    deadline_ms: int | None = None
    start_ms: int | None = None  # not before


@dataclass(frozen=True, slots=True)
class Malformed:
    """A request that can't go on: because of which header, why in words that follow its name, and for which reason."""

    header: str
    why: str
    reason: str = MALFORMED

    def __str__(self) -> str:
        return f"{self.header} {self.why}".lstrip()

    def encode(self) -> bytes:
        """Return it as the value of FAULT."""
        return f"{self.reason} {self}".encode("utf-8", "backslashreplace")

    @classmethod
    def decode(cls, value: bytes | None) -> "Malformed":
        """Read what `encode` returned."""
        reason, _, why = (value or b"").decode().partition(" ")
        return cls("", why, reason)


PLAIN: Final = RequestOptions()


def read_options(headers: Headers) -> RequestOptions | Malformed:
    """Read the gate's own headers; PLAIN itself where there are none, the usual case.

    Of a header given twice the last one counts, as with Kafka's `Headers.lastHeader`.
    """
    given: dict[str, bytes | None] | None = None
    for name, value in headers:
        if name in _WISHES:
            if given is None:
                given = {}
            given[name] = value
    if given is None:
        return PLAIN
    if FAULT in given:
        return Malformed.decode(given[FAULT])
    try:
        return RequestOptions(
            lane=_text(PRIORITY, given[PRIORITY], MAX_LANE_BYTES) if PRIORITY in given else "",
            tenant=_text(TENANT, given[TENANT], MAX_TENANT_BYTES) if TENANT in given else "",
            cost=_integer(COST, given[COST], 1, MAX_COST) if COST in given else 1,
            deadline_ms=_integer(DEADLINE, given[DEADLINE], *DEADLINE_RANGE) if DEADLINE in given else None,
            start_ms=_integer(START, given[START], *START_RANGE) if START in given else None,
        )
    except _MalformedError as error:
        return error.malformed


class _MalformedError(Exception):
    def __init__(self, header: str, why: str) -> None:
        super().__init__(header, why)
        self.malformed = Malformed(header, why)


def _text(header: str, value: bytes | None, limit: int) -> str:
    if value is None:
        raise _MalformedError(header, "has no value")
    if len(value) > limit:
        raise _MalformedError(header, f"has {len(value)} bytes; at most {limit} are allowed")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _MalformedError(header, "is not UTF-8") from None
    if not text.isprintable() and _CONTROL.search(text):
        raise _MalformedError(header, "holds control characters")
    return text


def _integer(header: str, value: bytes | None, least: int, most: int) -> int:
    if value is None:
        raise _MalformedError(header, "has no value")
    if not _INTEGER.fullmatch(value) or not least <= (number := int(value)) <= most:
        shown = value[:24].decode("ascii", "backslashreplace")
        raise _MalformedError(header, f"is {shown!r}; it must be an integer from {least} to {most}")
    return number


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the gate decided about one request: the header `gate`.

    `id` is `topic-partition@offset` of the request, `at_ms` unix ms, `attempt` counts the decisions about it from 1.
    `reason` and `limit` say why it was not plainly admitted. `created_ms` is the producer's timestamp, unix ms; None
    where it gave none. The record itself bears the time of the decision, from which Kafka counts its retention.
    `first` is the id of the request that a duplicate repeats.
    """

    verdict: str
    id: str
    at_ms: int
    attempt: int
    policy: str
    reason: str | None = None
    limit: str | None = None
    created_ms: int | None = None
    running: bool = False  # it counts as running until a worker tells that it is done, or for `running_timeout`
    first: str | None = None
    origin: str | None = None  # of a retry, or of what was put back: the first request about the job

    def encode(self) -> bytes:
        """Return an RFC 9651 item with parameters."""
        template = StampTemplate(
            self.verdict, self.at_ms, self.attempt, self.policy,
            reason=self.reason, limit=self.limit, running=self.running, first=self.first,
        )  # fmt: skip
        stamp = template.stamp(self.id.encode("ascii"), -1 if self.created_ms is None else self.created_ms)
        return stamp if self.origin is None else with_origin(stamp, self.origin.encode("ascii"))


def with_origin(stamp: bytes, first: bytes) -> bytes:
    """Return a stamp that names the first request about the job, too."""
    return stamp.replace(b";policy=", b';origin="%b";policy=' % first, 1)


class StampTemplate:
    """The stamps of requests that differ in nothing but id and producer's timestamp: all else is encoded once.

    `created` is that timestamp in unix ms, as in the record; below 0 or above MAX_CREATED it is left out.
    """

    __slots__ = ("_dated", "_head", "_tail")

    def __init__(
        self,
        verdict: str,
        at_ms: int,
        attempt: int,
        policy: str,
        *,
        reason: str | None = None,
        limit: str | None = None,
        running: bool = False,
        first: str | None = None,
    ) -> None:
        tail = f'";at={at_ms};attempt={attempt};policy={_string(policy)}'
        if reason is not None:
            tail += f";reason={reason}"
        if limit is not None:
            tail += f";limit={_string(limit)}"
        if running:
            tail += ";running"
        if first is not None:
            tail += f";first={_string(first)}"
        self._head = f'{verdict};id="'.encode("ascii")
        self._tail = tail.encode("ascii")
        self._dated = self._tail + b";created="

    def stamp(self, request_id: bytes, created: int) -> bytes:
        """Stamp the request of an id, as in `Origin.id`."""
        if 0 <= created <= MAX_CREATED:
            return b"%b%b%b%d" % (self._head, request_id, self._dated, created)
        return self._head + request_id + self._tail

    def around(self, source: bytes) -> tuple[bytes, bytes, bytes]:
        """Return what stands around the offset in the stamps of a `source`, as made by `source_of`.

        First what stands before it, then what stands behind it, first without and then with `created` to follow.
        """
        return self._head + source, self._tail, self._dated

    def stamp_at(self, source: bytes, offset: int, created: int) -> bytes:
        """Stamp the request at an offset of `source`, as made by `source_of`."""
        return self.stamp(b"%b%d" % (source, offset), created)


def source_of(topic: str, partition: int) -> bytes:
    """Return what all ids of a partition begin with: `topic-partition@`."""
    return f"{topic}-{partition}@".encode("ascii")


def _string(text: str) -> str:
    """Encode an RFC 9651 string (section 3.3.3), or a display string (3.3.8) where it holds more than plain ASCII."""
    if _PLAIN_STRING.fullmatch(text):
        return f'"{text}"'
    if text.isascii() and text.isprintable():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    plain = (chr(byte) if 0x20 <= byte < 0x7F and byte not in b'%"' else f"%{byte:02x}" for byte in text.encode())
    return '%"' + "".join(plain) + '"'


def parse_stamp(value: bytes) -> Stamp:
    """Read a stamp. Parameters of later versions are passed over. Raises ValueError that says what is wrong."""
    item = http_sf.parse(value, tltype="item")
    if not isinstance(item, tuple) or not isinstance(item[1], dict) or str(item[0]) not in _VERDICTS:
        raise ValueError(f"{value[:80]!r} is no stamp: it must start with {', '.join(sorted(_VERDICTS))}")
    verdict, given = str(item[0]), item[1]
    match given:
        case {"id": str(), "at": int(at_ms), "attempt": int(attempt), "policy": _}:
            texts = {
                name: str(given[name]) if name in given else None for name in ("reason", "limit", "first", "origin")
            }
            created = given.get("created")
            dated = created if type(created) is int and created >= 0 else None
            running = given.get("running") is True
            policy = str(given["policy"])
            return Stamp(verdict, str(given["id"]), at_ms, attempt, policy, **texts, created_ms=dated, running=running)
    missing = ", ".join(sorted({"id", "at", "attempt", "policy"} - given.keys())) or "parameters of the right types"
    raise ValueError(f"the stamp {value[:80]!r} lacks {missing}")


class Origin(NamedTuple):
    """Where a stamped record came from (`topic-partition@offset`), and how often it was decided."""

    id: bytes
    attempt: int
    created: int  # the producer's timestamp; -1: not in the stamp
    first: bytes | None = None  # the first request about the job, where that is another one


def _stamp(headers: Headers) -> re.Match[bytes] | None:
    return next(
        (m for name, value in headers if name == STAMP and value is not None and (m := _ORIGIN.match(value))), None
    )


def origin(headers: Headers) -> Origin | None:
    """Return the origin that the gate stamped onto a record; None without a stamp."""
    found = _stamp(headers)
    if found is None:
        return None
    # the last parameter; text in front of it ends with a quote, whatever it holds
    created = found.string.rpartition(b";created=")[2]
    dated = int(created) if created.isdigit() and len(created) <= _DIGITS else -1
    return Origin(found[1], int(found[3]), dated, found[4])


def decided_at(headers: Headers) -> int | None:
    """Return by what time a stamped record was decided, unix ms; None without a stamp."""
    found = _stamp(headers)
    return int(found[2]) if found else None


def is_running(headers: Headers) -> bool:
    """Tell whether a record was admitted as one that counts as running until somebody tells that it is done."""
    found = _stamp(headers)
    if found is None:
        return False
    before, created, _ = found.string.rpartition(b";created=")
    return (before if created else found.string).endswith(b";running")


def not_before(headers: Headers) -> int | None:
    """Return the time stamped onto a waiting record, unix ms; None without one."""
    for name, value in headers:
        if name == NOT_BEFORE and value is not None and _INTEGER.fullmatch(value):
            return int(value)
    return None


def is_stamped(headers: Headers) -> bool:
    """Tell whether a request carries headers that the gate drops: a forgery, or its own output sent again."""
    for name, _ in headers:  # noqa: SIM110 - asked for most requests that name a tenant; any() takes thrice the time
        if name in _DROPPED:
            return True
    return False


def original_id(headers: Headers) -> str | None:
    """Return the id that the gate stamped onto a record; None without a stamp."""
    found = origin(headers)
    return found.id.decode("ascii") if found else None


def unstamped(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Return the headers without those that the gate stamped. A `retry-after` of the producer's own is kept.

    That name is everybody's: the gate's own one is the one directly behind its stamp.
    """
    kept = []
    before = ""
    for header in headers:
        name = header[0]
        if name not in _STAMPED and (name != RETRY_AFTER or before != STAMP):
            kept.append(header)
        before = name
    return kept


def stamped_retry_after(headers: Headers) -> bytes | None:
    """Return what the gate told to wait; None: nothing, whatever the producer's own `retry-after` says."""
    found, before = None, ""
    for name, value in headers:
        if name == RETRY_AFTER and before == STAMP:
            found = value
        before = name
    return found


def restamp(
    headers: Headers, stamp: bytes, retry_after_s: int | None = None, not_before_ms: int | None = None
) -> list[tuple[str, bytes | None]]:
    """Replace the gate's headers and keep all others, in order and untouched."""
    stamped = unstamped(headers)
    stamped.append((STAMP, stamp))
    if retry_after_s is not None:
        stamped.append((RETRY_AFTER, b"%d" % retry_after_s))
    if not_before_ms is not None:
        stamped.append((NOT_BEFORE, b"%d" % not_before_ms))
    return stamped


def replace_all(
    headers: Headers, stamp: bytes, retry_after_s: int | None = None, not_before_ms: int | None = None
) -> list[tuple[str, bytes | None]]:
    """Do as `restamp` with what a producer wrote: what it claims about jobs is dropped, as it may be another's."""
    return restamp([header for header in headers if header[0] not in CLAIMED], stamp, retry_after_s, not_before_ms)


def last(headers: Headers, name: str) -> bytes | None:
    """Return the last header of that name."""
    found = None
    for key, value in headers:
        if key == name:
            found = value
    return found


def number(value: bytes | None) -> int | None:
    """Read a non-negative integer; None for anything else."""
    return int(value) if value is not None and len(value) <= _MOST_DIGITS and value.isdigit() else None


def job_id(headers: Headers) -> str | None:
    """Return the id of the first request about a job: the same for all its attempts. None for a record without one.

    Only of what the gate has written: what a producer claims is dropped when a request is stamped.
    """
    first = last(headers, JOB_ID)
    return first.decode("ascii", "backslashreplace") if first else original_id(headers)


def attempt(headers: Headers) -> int:
    """Return which attempt at a job this is, from 1; see `job_id`."""
    return max(1, number(last(headers, JOB_ATTEMPT)) or 1)


def backoffs(headers: Headers) -> int:
    """Return how often a job was put off as its service wanted to be left alone; see `job_id`."""
    return number(last(headers, JOB_BACKOFFS)) or 0


def retry_after(at_ms: int, not_before_ms: int) -> int:
    """Return whole seconds from `at_ms` to `not_before_ms`, rounded up and never negative (RFC 9110, 10.2.3)."""
    return max(0, -((at_ms - not_before_ms) // 1000))
