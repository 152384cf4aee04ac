"""State records: what an engine writes beside the offsets, as versioned and checksummed bytes."""

import struct
import zlib
from typing import Final, TypeVar

import msgspec

from gate.limits import StateError

VERSION: Final = 1
_HEAD: Final = struct.Struct(">BI")  # version, CRC-32 of the rest

T = TypeVar("T")


class QueueTag(msgspec.Struct, array_like=True, frozen=True):
    """Where one tenant stands in one lane; worth keeping while the lane is busy or the tenant waits in it."""

    lane: str
    epoch: int
    start: int
    order: int
    until: int  # blocked by the tenant's own limit until then; 0: not blocked


class TenantRecord(msgspec.Struct, array_like=True, frozen=True):
    """`tenant/<service>/<tenant>`."""

    limiter: bytes | None
    plan: bytes | None
    queues: list[QueueTag]
    overdue: bool = False
    look_at: int = 0  # when to look whether it can be forgotten
    plans: int = 0  # the service's number when it was written: another one makes `plan` void


class LaneRecord(msgspec.Struct, array_like=True, frozen=True):
    """A lane's place among the lanes, and the virtual time of the tenants in it."""

    name: str
    start: int
    epoch: int
    virtual: int
    orders: int
    busy: bool


class TotalRecord(msgspec.Struct, array_like=True, frozen=True):
    """One counter."""

    lane: str
    verdict: str
    reason: str
    pulled: bool
    requests: int


class BreachRecord(msgspec.Struct, array_like=True, frozen=True):
    """An open breach, and which near-limit crossing was told already."""

    since: int = 0  # 0: no breach is open
    limit: str = ""
    reason: str = ""
    refused: int = 0
    last: int = 0
    beats: int = 0
    next_beat: int = 0
    near: bool = False
    near_told: int = 0


class AnchorRecord(msgspec.Struct, array_like=True, frozen=True):
    """What tells whether a plan still holds."""

    due: int | None
    since: int
    lost: int
    credit: int
    at: int
    stale: bool
    wrong: bool


class HoldingRecord(msgspec.Struct, array_like=True, frozen=True):
    """What is held: up to which offset each partition was looked at; how many requests and units, by lane."""

    seen: dict[int, int]
    requests: dict[str, int]
    units: dict[str, int]


class ServiceRecord(msgspec.Struct, array_like=True, frozen=True):
    """`service/<name>`."""

    policy: str  # version
    now: int
    sequence: int
    limiter: bytes
    plan: list[bytes] | None
    plan_at: int
    virtual: int
    lanes: list[LaneRecord]
    totals: list[TotalRecord]
    breach: BreachRecord
    meters: list[tuple[float, int]]
    paused_until: int
    lag: int | None
    admitted_since: int
    unknown_lanes: int
    refusal: tuple[int, str, str] | None
    paused: dict[str, int]
    more: bool
    purge: bool
    held: tuple[int | None] | None
    anchor: AnchorRecord | None = None
    salt: int = 0  # of the hash that says which tenants share limits; 0: written before there were any
    shared_requests: int = 0
    plans: int = 0
    renamed: list[str] = []
    holding: HoldingRecord | None = None
    gone: int = 0


class ClaimRecord(msgspec.Struct, array_like=True, frozen=True):
    """What one service has had of a group's budget, and what it waits for."""

    start: int
    units: int
    ready: int
    asked: int


class GroupRecord(msgspec.Struct, array_like=True, frozen=True):
    """`group/<name>`."""

    limiter: bytes
    virtual: int
    claims: dict[str, ClaimRecord]


class SegmentRecord(msgspec.Struct, array_like=True, frozen=True):
    """`parked/<service>/<partition>/<first offset>`: columns of little-endian integers, one row per entry."""

    base: int
    sequence: int
    owners: list[tuple[str, str]]  # lane, tenant
    owner: bytes  # u8, index into owners
    offset: bytes  # u32, above base
    seq: bytes  # u32, above sequence
    count: bytes  # u16
    cost: tuple[str, bytes] | None  # u8 or i64, by type code; None: all 1
    deadline: tuple[str, bytes] | None  # i32 or i64 of ms above origin; None: none has one
    origin: int


def encode(record: msgspec.Struct) -> bytes:
    """Return the bytes of a record."""
    body = msgspec.msgpack.encode(record)
    return _HEAD.pack(VERSION, zlib.crc32(body)) + body


def decode(key: str, data: bytes, kind: type[T]) -> T:
    """Read a record back; StateError where it is damaged or was written by a newer gate."""
    if len(data) < _HEAD.size:
        raise StateError(
            f"state record {key!r} is cut short: {len(data)} bytes; restore it or start with --state reset"
        )
    version, checksum = _HEAD.unpack_from(data)
    if version > VERSION:
        raise StateError(
            f"state record {key!r} has version {version}, this gate reads up to {VERSION}: run a newer gate"
        )
    body = data[_HEAD.size :]
    if zlib.crc32(body) != checksum:
        raise StateError(f"state record {key!r} is damaged (checksum): restore it or start with --state reset")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise StateError(f"state record {key!r} cannot be read: {error}; start with --state reset") from error
