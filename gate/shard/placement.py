"""Placement of services: which shard decides about what."""

from zlib import crc32


def shard_of(key: str, shards: int) -> int:
    """Return the shard of a service (or of a group of services that share a budget). Stable for ever."""
    return crc32(key.encode()) % shards
