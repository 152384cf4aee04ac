"""The changelog's own records: how it is to be read, how far it has come, and what is on its way out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from gate.admission.model import Pull
from gate.errors import GateError
from gate.limits import StateError

META_KEY: Final = "meta"
LEAVING_KEY: Final = "leaving"  # without transactions: what was taken off the delayed topic and may not be out yet
FORMAT: Final = 1

RESET_HINT: Final = (
    "restore the state topic, or run a newer gate if one wrote it; "
    "`gate run --state reset` forgets all limits and all that is parked"
)


class StateMismatchError(GateError):
    """The changelog was written by a gate that divides services differently, or by a newer one."""


class Meta(msgspec.Struct, frozen=True):
    """What every batch writes: how this changelog is to be read, and how far it has come."""

    format: int
    shards: int
    at: int = 0  # by what time the last batch was decided, ns: the next owner starts no earlier
    since: int = 0  # from when on positions have been kept here, ns; 0: they have not
    control: int = 0  # the next command of the control topic


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Say what it was that can't be read. Raises StateMismatchError."""
    try:
        yield
    except StateError as error:
        raise StateMismatchError(f"{what} can't be read: {error}", hint=RESET_HINT) from None


def encode_leaving(pulls: Sequence[tuple[str, Pull]]) -> bytes:
    """Return a note of the parked requests, by service, that leave in a batch."""
    return msgspec.msgpack.encode(pulls)


def read_leaving(note: bytes) -> list[tuple[str, Pull]]:
    """Read what `encode_leaving` noted."""
    return msgspec.msgpack.decode(note, type=list[tuple[str, Pull]])


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
