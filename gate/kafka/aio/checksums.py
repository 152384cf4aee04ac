"""Checksums of record batches, by the processor's own instruction where there is a build that uses it.

aiokafka's take as long as unpacking half of what they are about.
"""

from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import Final

from gate.kafka.aio.compat.shared import calc_crc32c

CHUNK: Final = 64 << 10  # bytes that are copied at a time: larger ones are fresh memory each time, which costs more
_AT: Final = 17  # where a batch's checksum stands, of all that is behind it
_CHECKSUM: Final = Struct(">I")


def _quickest() -> Callable[[memoryview], int]:
    with suppress(ImportError):  # a gate runs without it, only slower
        import google_crc32c  # noqa: PLC0415 - it may be missing

        extend = google_crc32c.extend

        def quick(data: memoryview) -> int:
            crc = 0
            for at in range(0, len(data), CHUNK):
                crc = extend(crc, bytes(data[at : at + CHUNK]))
            return crc

        if google_crc32c.implementation == "c":  # else it goes byte by byte in Python
            return quick
    own: Callable[[memoryview], int] = calc_crc32c
    return own


crc32c: Final = _quickest()


def is_sound(batch: memoryview) -> bool:
    """Tell whether a record batch is as it was written."""
    (given,) = _CHECKSUM.unpack_from(batch, _AT)
    return bool(crc32c(batch[_AT + _CHECKSUM.size :]) == given)
