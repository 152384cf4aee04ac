"""The changelog's own records: how it is to be read, how far it has come, and what is on its way out.

In which format a shard's records are written is part of its state, so that each owner knows it exactly: it changes
with a batch, by command, and never back. What is there in an older format stays so until it is written again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from gate.admission.model import Pull, Reason, Verdict
from gate.admission.state import VERSION, decode, encode
from gate.errors import GateError
from gate.limits import StateError
from gate.units import Ms, Ns

META_KEY: Final = "meta"
LEAVING_KEY: Final = "leaving"  # without transactions: what was taken off the delayed topic and may not be out yet
FLOORS_KEY: Final = "floors"
FORMAT: Final = VERSION  # of a state that begins

_FIRST_OF_A_LIST: Final = 0x90  # of a list in MessagePack; versions are far below

RESET_HINT: Final = (
    "restore the state topic, or run a newer gate if one wrote it; "
    "`gate run --state reset` forgets all limits and all that is parked"
)


class StateMismatchError(GateError):
    """The changelog was written by a gate that divides services differently, or by a newer one."""


class StateClosedError(GateError):
    """The changelog has been closed: services lie on other shards now, or soon."""

    def __init__(self, closed: "ClosedGeneration") -> None:
        super().__init__(
            f"the state is closed: `gate reshard` moves it to generation {closed.generation} ({closed.shards} shards)",
            hint=f"this gate starts anew by itself once it is there; if nobody runs it, `gate reshard {closed.shards}` "
            "finishes it",
        )


class ClosedGeneration(msgspec.Struct, frozen=True, omit_defaults=True):
    """Into what a generation is being moved."""

    generation: int
    shards: int
    groups: dict[str, str | None] = {}  # of services that move into another one
    at: Ms = 0  # since when


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What every batch writes: how this changelog is to be read, and how far it has come."""

    format: int
    shards: int
    at: Ns = 0  # by what time the last batch was decided: the next owner starts no earlier
    since: Ns = 0  # from when on positions have been kept here; 0: they have not
    control: int = 0  # the next command of the control topic
    closed: ClosedGeneration | None = None  # nobody may decide by it any more; since format 2
    alerts: int | None = None  # before this offset of the alerts topic no alert is open that is not about a limit
    ended: tuple[int, ...] = ()  # offsets of alerts that this shard's owner has ended, and may not have read so yet


class FloorsRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`floors`: the next command of services whose shard was ahead of others when they came together."""

    floors: dict[str, int] = msgspec.field(name="f")


class LeavingRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Parked requests of a service that leave in a batch."""

    service: str = msgspec.field(name="s")
    partition: int = msgspec.field(name="p")
    offset: int = msgspec.field(name="o")
    count: int = msgspec.field(name="n")
    verdict: str = msgspec.field(name="v")
    reason: str | None = msgspec.field(default=None, name="r")
    limit: str | None = msgspec.field(default=None, name="l")


class NoteRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`leaving`."""

    pulls: list[LeavingRecord] = msgspec.field(name="p")


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Say what it was that can't be read. Raises StateMismatchError."""
    try:
        yield
    except StateError as error:
        raise StateMismatchError(f"{what} can't be read: {error}", hint=RESET_HINT) from None


def encode_leaving(pulls: Sequence[tuple[str, Pull]], version: int = VERSION) -> bytes:
    """Return a note of the parked requests, by service, that leave in a batch."""
    if version == 1:
        names = ("partition", "offset", "count", "verdict", "reason", "limit")
        return msgspec.msgpack.encode(
            [(service, {name: getattr(pull, name) for name in names}) for service, pull in pulls]
        )
    left = [LeavingRecord(s, p.partition, p.offset, p.count, p.verdict, p.reason, p.limit) for s, p in pulls]
    return encode(NoteRecord(left), version)


def read_leaving(note: bytes) -> list[tuple[str, Pull]]:
    """Read what `encode_leaving` noted. Raises StateMismatchError."""
    with readable("what was on its way out"):
        try:
            if note[0] >= _FIRST_OF_A_LIST:  # in format 1 it was that alone
                return msgspec.msgpack.decode(note, type=list[tuple[str, Pull]])
        except msgspec.DecodeError as error:
            raise StateError(str(error)) from None
        pulls = decode(LEAVING_KEY, note, NoteRecord).pulls
        return [
            (
                p.service,
                Pull(
                    p.partition, p.offset, p.count, Verdict(p.verdict), Reason(p.reason) if p.reason else None, p.limit
                ),
            )
            for p in pulls
        ]


def encode_meta(meta: Meta) -> bytes:
    """Return the record that goes with every batch."""
    return msgspec.json.encode(meta)


def read_meta(raw: bytes | None, shards: int) -> Meta:
    """Check how the changelog is to be read. Raises StateMismatchError."""
    if raw is None:
        return Meta(FORMAT, shards)
    try:
        meta = msgspec.json.decode(raw, type=Meta)
    except msgspec.DecodeError as error:
        raise StateMismatchError(
            f"the description in the state topic can't be read: {error}",
            hint=RESET_HINT,
        ) from None
    if meta.format > FORMAT:
        raise StateMismatchError(
            f"the state was written by a newer gate (format {meta.format}, this one knows {FORMAT})",
            hint="run the newer version",
        )
    if meta.shards != shards:
        raise StateMismatchError(
            f"this cluster divides services onto {meta.shards} shards, this gate was started with {shards}",
            hint=f"start it with `--shards {meta.shards}`",
        )
    return meta
