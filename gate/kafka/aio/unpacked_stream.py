"""Stream of what comes out of a compressed batch, unpacked only as far as it is read."""

from collections.abc import Iterator
from typing import Final

from gate.kafka.aio.unpacking import UnreadableError

_VARINT: Final = 10  # bytes at most


def varint(data: memoryview | bytearray, at: int) -> tuple[int, int]:
    """Read a zigzag number; return it and where it ends."""
    value = shift = 0
    for at in range(at, at + _VARINT):  # noqa: B020, PLR1704 - where reading goes on
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + 1
        shift += 7
    raise UnreadableError("a number has more than ten bytes")


class Stream:
    """What comes out of a compressed batch: `data`, read up to `at`."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.data = bytearray()
        self.at = 0
        self._gone = 0
        self._chunks = chunks

    def need(self, size: int) -> None:
        """Unpack until there are `size` more bytes. Raises UnreadableError at the end."""
        while len(self.data) - self.at < size:
            if (chunk := next(self._chunks, None)) is None:
                raise UnreadableError("the batch ends within a record")
            self.data += chunk

    def ends_within(self, size: int) -> bool:
        """Unpack up to `size` bytes; tell whether that was all. Raises UnreadableError."""
        while len(self.data) <= size:
            if (chunk := next(self._chunks, None)) is None:
                return True
            self.data += chunk
        return False

    def varint(self) -> int:
        """Read a number."""
        while True:
            try:
                value, self.at = varint(self.data, self.at)
            except IndexError:
                self.need(len(self.data) - self.at + 1)
            else:
                return value

    def skip(self, size: int) -> None:
        """Pass over bytes without keeping them."""
        while size > len(self.data) - self.at:
            size -= len(self.data) - self.at
            self.at = len(self.data)
            self.forget()
            self.need(1)
        self.at += size

    @property
    def position(self) -> int:
        """How much was read since the beginning."""
        return self._gone + self.at

    def forget(self) -> None:
        """Keep nothing of what was read."""
        self._gone += self.at
        del self.data[: self.at]
        self.at = 0
