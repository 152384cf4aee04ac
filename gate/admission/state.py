"""State records: what an engine writes beside the offsets, as versioned and checksummed bytes.

Fields have names, short ones in what is written, so that records may gain and lose fields. A field that has its default
is not written: a default never changes, nor does a name come back with another meaning.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import field

from gate.admission import state_v1
from gate.limits import StateError
from gate.units import Ms, Ns

VERSION: Final = 2
_HEAD: Final = struct.Struct(">BI")  # version, CRC-32 of the rest

T = TypeVar("T", bound=msgspec.Struct)


class QueueTag(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where one tenant stands in one lane; worth keeping while the lane is busy or the tenant waits in it."""

    lane: str = field(name="l")
    epoch: int = field(default=0, name="e")
    start: int = field(default=0, name="s")
    order: int = field(default=0, name="o")
    until: Ns = field(default=0, name="u")  # blocked by the tenant's own limit until then; 0: not blocked


class TenantRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`tenant/<service>/<tenant>`."""

    limiter: bytes | None = field(default=None, name="l")
    plan: bytes | None = field(default=None, name="p")
    queues: list[QueueTag] = field(default_factory=list, name="q")
    overdue: bool = field(default=False, name="o")
    look_at: Ns = field(default=0, name="a")  # when to look whether it can be forgotten
    plans: int = field(default=0, name="n")  # the service's number when it was written: another one makes `plan` void


class LaneRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lane's place among the lanes, and the virtual time of the tenants in it."""

    name: str = field(name="n")
    start: int = field(default=0, name="s")
    epoch: int = field(default=0, name="e")
    virtual: int = field(default=0, name="v")
    orders: int = field(default=0, name="o")
    busy: bool = field(default=False, name="b")


class TotalRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One counter."""

    lane: str = field(name="l")
    verdict: str = field(name="v")
    reason: str = field(default="", name="r")
    pulled: bool = field(default=False, name="p")
    requests: int = field(default=0, name="n")


class BreachRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An open breach, and which near-limit crossing was told already."""

    since: Ns = field(default=0, name="s")  # 0: no breach is open
    limit: str = field(default="", name="l")
    reason: str = field(default="", name="r")
    refused: int = field(default=0, name="n")
    last: Ns = field(default=0, name="a")
    beats: int = field(default=0, name="b")
    next_beat: Ns = field(default=0, name="x")
    near: bool = field(default=False, name="c")
    near_told: int = field(default=0, name="t")


class AnchorRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What tells whether a plan still holds."""

    due: int | None = field(default=None, name="d")
    since: int = field(default=0, name="s")
    lost: int = field(default=0, name="l")
    credit: int = field(default=0, name="c")
    at: int = field(default=0, name="a")
    stale: bool = field(default=False, name="o")
    wrong: bool = field(default=False, name="w")


class HoldingRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is held: up to which offset each partition was looked at; how many requests and units, by lane."""

    seen: dict[int, int] = field(default_factory=dict, name="s")
    requests: dict[str, int] = field(default_factory=dict, name="r")
    units: dict[str, int] = field(default_factory=dict, name="u")


class ServiceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`service/<name>`."""

    policy: str = field(name="p")  # version
    now: Ns = field(name="n")
    sequence: int = field(name="s")
    limiter: bytes = field(name="l")
    plan: list[bytes] | None = field(default=None, name="f")
    plan_at: Ns = field(default=0, name="fa")
    virtual: int = field(default=0, name="v")
    lanes: list[LaneRecord] = field(default_factory=list, name="q")
    totals: list[TotalRecord] = field(default_factory=list, name="t")
    breach: BreachRecord = field(default_factory=BreachRecord, name="b")
    meters: list[tuple[float, int]] = field(default_factory=list, name="m")
    paused_until: Ns = field(default=0, name="pu")
    lag: int | None = field(default=None, name="w")
    admitted_since: int = field(default=0, name="as")
    unknown_lanes: int = field(default=0, name="ul")
    refusal: tuple[int, str, str] | None = field(default=None, name="r")
    paused: dict[str, int] = field(default_factory=dict, name="pt")
    more: bool = field(default=False, name="mo")
    purge: bool = field(default=False, name="pg")
    held: tuple[int | None] | None = field(default=None, name="h")
    anchor: AnchorRecord | None = field(default=None, name="a")
    # of the hash that says which tenants share limits; 0: written before there were any
    salt: int = field(default=0, name="sa")
    shared_requests: int = field(default=0, name="sr")
    plans: int = field(default=0, name="pn")
    renamed: list[str] = field(default_factory=list, name="rn")
    holding: HoldingRecord | None = field(default=None, name="ho")
    gone: int = field(default=0, name="g")


class RunningRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`running/<service>/<number>`: requests that were admitted at one time and run, by their ids."""

    at: Ns = field(name="a")
    ids: list[str] = field(name="i")
    tenants: list[str | None] = field(default_factory=list, name="t")  # that each counts for; none: for none of them


class ClaimRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one service has had of a group's budget, and what it waits for."""

    start: int = field(default=0, name="s")
    units: int = field(default=0, name="u")
    ready: int = field(default=0, name="r")
    asked: int = field(default=0, name="a")


class GroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`group/<name>`."""

    limiter: bytes = field(name="l")
    virtual: int = field(default=0, name="v")
    claims: dict[str, ClaimRecord] = field(default_factory=dict, name="c")


class SegmentRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`parked/<service>/<partition>/<first offset>`: columns of little-endian integers, one row per entry."""

    base: int = field(name="b")
    sequence: int = field(name="s")
    owners: list[tuple[str, str]] = field(name="w")  # lane, tenant
    owner: bytes = field(name="i")  # u8, index into owners
    offset: bytes = field(name="o")  # u32, above base
    seq: bytes = field(name="q")  # u32, above sequence
    count: bytes = field(name="n")  # u16
    cost: tuple[str, bytes] | None = field(default=None, name="c")  # u8 or i64, by type code; None: all 1
    deadline: tuple[str, bytes] | None = field(
        default=None, name="d"
    )  # i32 or i64 of ms above origin; None: none has one
    origin: int = field(default=0, name="t")


class ScheduledRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`scheduled/<service>/<partition>/<first offset>`: columns of little-endian integers, one row per entry."""

    base: int = field(name="b")
    owners: list[tuple[str, str]] = field(name="w")  # lane, tenant
    owner: bytes = field(name="i")  # u8, index into owners
    offset: bytes = field(name="o")  # u32, above base
    count: bytes = field(name="n")  # u16
    start: bytes = field(name="s")  # i64 of ms
    cost: tuple[str, bytes] | None = field(default=None, name="c")  # u8 or i64, by type code; None: all 1
    deadline: bytes | None = field(default=None, name="d")  # i64 of ms; None: none has one


class SeenRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`seen/<service>/<n>`: recent ids in the order in which they came, in columns of little-endian integers."""

    at: Ms = field(name="t")
    digests: bytes = field(name="d")  # 16 bytes each
    places: bytes = field(name="p")  # u64: partition << 48 | offset; all ones: forgotten
    ats: bytes = field(name="a")  # u32 of ms since `at`


@cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


_WRITERS: Final[Mapping[int, Callable[[msgspec.Struct], bytes]]] = {
    1: state_v1.pack,
    2: msgspec.msgpack.Encoder().encode,
}
_READERS: Final[Mapping[int, Callable[[bytes, type[msgspec.Struct]], Any]]] = {
    1: state_v1.unpack,
    2: lambda body, kind: _decoder(kind).decode(body),
}


def encode(record: msgspec.Struct, version: int = VERSION) -> bytes:
    """Return the bytes of a record, as gates of a version write it."""
    body = _WRITERS[version](record)
    return _HEAD.pack(version, zlib.crc32(body)) + body


def decode(key: str, data: bytes, kind: type[T]) -> T:
    """Read a record back, of whichever version; StateError where it is damaged or was written by a newer gate."""
    if len(data) < _HEAD.size:
        raise StateError(
            f"state record {key!r} is cut short: {len(data)} bytes; restore it or start with --state reset"
        )
    version, checksum = _HEAD.unpack_from(data)
    reader = _READERS.get(version)
    if reader is None:
        raise StateError(
            f"state record {key!r} has version {version}, this gate reads up to {VERSION}: run a newer gate"
        )
    body = data[_HEAD.size :]
    if zlib.crc32(body) != checksum:
        raise StateError(f"state record {key!r} is damaged (checksum): restore it or start with --state reset")
    try:
        record: T = reader(body, kind)
    except msgspec.DecodeError as error:
        raise StateError(f"state record {key!r} cannot be read: {error}; start with --state reset") from error
    return record
