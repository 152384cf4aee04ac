"""Limiter state as bytes: a version, numbers of variable length, a checksum."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from struct import Struct
from typing import Final
from zlib import crc32

from gate.limits.checks import shown
from gate.limits.errors import StateError

VERSION: Final = 1
_CHECKSUM: Final = Struct("<I")
_HINT: Final = "delete the record to start with a full limiter, or restore it from where it was written"


@lru_cache(maxsize=1024)  # thousands of keys are written at a time, with the same limits and times
def _varint(value: int) -> bytes:
    """Return a zigzag varint (as in Protocol Buffers, without their bound)."""
    rest = 2 * value if value >= 0 else -2 * value - 1
    data = bytearray()
    while rest > 0x7F:
        data.append(rest & 0x7F | 0x80)
        rest >>= 7
    data.append(rest)
    return bytes(data)


def varints(*values: int) -> bytes:
    """Return what `Writer.numbers` appends."""
    return b"".join(map(_varint, values))


class Writer:
    """Collects numbers, of any size and sign, and raw bytes."""

    def __init__(self) -> None:
        self.parts = [bytes([VERSION])]

    def numbers(self, *values: int) -> None:
        """Append each value as a varint."""
        self.parts += map(_varint, values)

    def encoded(self, data: bytes) -> None:
        """Append what `varints` has made."""
        self.parts.append(data)

    def raw(self, data: bytes) -> None:
        """Append `data` with its length."""
        self.parts += _varint(len(data)), data


class Reader:
    """Reads what a Writer wrote."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 1

    def numbers(self, count: int) -> list[int]:
        """Return the next `count` numbers."""
        values = []
        data, position = self.data, self.position
        for _ in range(count):
            rest = shift = 0
            while (byte := data[position]) > 0x7F:
                rest |= (byte & 0x7F) << shift
                shift += 7
                position += 1
            position += 1
            rest |= byte << shift
            values.append(rest >> 1 if rest % 2 == 0 else -(rest + 1 >> 1))
        self.position = position
        return values

    def skip(self, encoded: bytes) -> bool:
        """Go past what `varints` has made, if it is that what follows."""
        follows = self.data.startswith(encoded, self.position)
        if follows:
            self.position += len(encoded)
        return follows

    def raw(self) -> bytes:
        """Return the next bytes that were written with their length."""
        (length,) = self.numbers(1)
        if not 0 <= length <= self.left:
            raise IndexError("a length beyond the end")
        self.position += length
        return self.data[self.position - length : self.position]

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self.data) - self.position

    def end(self) -> None:
        """Raise ValueError if anything is left."""
        if self.left:
            raise ValueError(f"{self.left} bytes too many")

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Turn the errors of impossible content into a StateError."""
        try:
            yield
        except (IndexError, OverflowError, TypeError, ValueError, ZeroDivisionError) as error:
            raise StateError(f"the limiter state makes no sense: {error}", hint=_HINT) from error


def seal(writer: Writer) -> bytes:
    """Return the bytes with their checksum."""
    data = b"".join(writer.parts)
    return data + _CHECKSUM.pack(crc32(data))


def unseal(data: bytes | bytearray | memoryview) -> Reader:
    """Check version and checksum. Raises StateError, TypeError for what is not bytes."""
    if type(data) is not bytes:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"the state of limiters must be bytes, not {shown(data)} ({type(data).__name__})")
        data = bytes(data)
    if len(data) < 1 + _CHECKSUM.size:
        raise StateError(f"the limiter state is cut short: {len(data)} bytes", hint=_HINT)
    if data[0] > VERSION:
        raise StateError(
            f"the limiter state has version {data[0]}, this program knows up to {VERSION}",
            hint="run the newer release that wrote it, or delete the record to start with a full limiter",
        )
    body = data[: -_CHECKSUM.size]
    if _CHECKSUM.pack(crc32(body)) != data[-_CHECKSUM.size :]:
        raise StateError("the limiter state is damaged: its checksum does not match", hint=_HINT)
    return Reader(body)
