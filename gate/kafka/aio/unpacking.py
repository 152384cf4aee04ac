"""Compressed record batches as a stream of small chunks: what is unpacked at a time is bounded, whatever it grows to.

aiokafka unpacks a batch in one piece, and nine KB can hold hundreds of MB.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import cramjam
import lz4.frame
import zstandard
from aiokafka import errors

CHUNK: Final = 64 << 10  # bytes that are unpacked at a time
SMALL_WINDOW: Final = 8 << 20  # bytes of memory
MOST_LARGE_WINDOW: Final = 16 << 20  # bytes that a batch may unpack to which wants a larger one
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4  # as in a batch's attributes
_GZIP_MEMBER: Final = b"\x1f\x8b"
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = 16  # the magic and two versions
_SNAPPY_GROWTH: Final = 64  # at most: a copy of 64 bytes takes two
_INT: Final = struct.Struct(">i")


class UnreadableError(errors.KafkaError):  # type: ignore[misc]
    """Bytes that are no record, or can't be unpacked."""


def unpacked(codec: int, data: memoryview) -> Iterator[bytes]:
    """Yield what is packed in `data`, in chunks. Raises UnreadableError where it can't be unpacked."""
    unpack = _CODECS.get(codec)
    if unpack is None:
        raise UnreadableError(f"codec {codec} is not known")
    try:
        yield from unpack(data)
    except UnreadableError:
        raise
    except (zlib.error, zstandard.ZstdError, RuntimeError, cramjam.DecompressionError, struct.error) as error:
        raise UnreadableError(f"can't be unpacked: {error}") from None


def _gzip(data: memoryview) -> Iterator[bytes]:
    rest: bytes | memoryview = data
    while rest[:2] == _GZIP_MEMBER:  # members follow one another; what is no member is padding
        member: Any = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while chunk := member.decompress(rest, CHUNK):
            yield chunk
            rest = member.unconsumed_tail
        if not member.eof:
            raise UnreadableError("can't be unpacked: it ends too early")
        rest = member.unused_data


def _lz4(data: memoryview) -> Iterator[bytes]:
    frame: Any = lz4.frame.LZ4FrameDecompressor()
    chunk = frame.decompress(data, max_length=CHUNK)
    while chunk:
        yield chunk
        chunk = b"" if frame.eof else frame.decompress(b"", max_length=CHUNK)


def _zstd(data: memoryview) -> Iterator[bytes]:
    """Bound what a frame keeps: as much as its window has, once it unpacks to as much; 2 MiB are usual."""
    window = max(SMALL_WINDOW, zstandard.get_frame_parameters(data).window_size)
    left = MOST_LARGE_WINDOW if window > SMALL_WINDOW else None
    frames = zstandard.ZstdDecompressor(max_window_size=window)
    with frames.stream_reader(data, read_across_frames=True) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
            if left is not None and (left := left - len(chunk)) <= 0:
                raise UnreadableError(f"unpacks to more than {MOST_LARGE_WINDOW} bytes with a window of {window}")


def _snappy(data: memoryview) -> Iterator[bytes]:
    if bytes(data[: len(_XERIAL)]) != _XERIAL:
        yield _snappy_block(data)
        return
    at = 0
    while at < len(data):
        if bytes(data[at : at + len(_XERIAL)]) == _XERIAL:  # streams may follow one another
            at += _XERIAL_HEADER
            continue
        size = _INT.unpack_from(data, at)[0]
        at += _INT.size
        yield _snappy_block(data[at : at + size])
        at += size


def _snappy_block(block: memoryview) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) > _SNAPPY_GROWTH * len(block):
        raise UnreadableError("can't be unpacked: a block claims more than it can hold")
    return bytes(cramjam.snappy.decompress_raw(block))


_CODECS: Final[dict[int, Callable[[memoryview], Iterator[bytes]]]] = {
    GZIP: _gzip,
    SNAPPY: _snappy,
    LZ4: _lz4,
    ZSTD: _zstd,
}
