"""Shares of a batch's room, for those whose requests wait."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gate.shard.records import Partition


class BatchShare(NamedTuple):
    """What a batch may take of a partition."""

    service: str
    partition: Partition
    room: int  # records
    weight: int  # bytes in memory


class BatchShares:
    """Gives each service as much, and each of its partitions.

    Who has less waiting comes first, and what it leaves is the others', so that it never waits for who sends much.
    """

    def __init__(self, room: int, weight: int, waiting: Mapping[str, Sequence[tuple[int, Partition]]]) -> None:
        """Take the room, and the bytes that wait of each partition, by service."""
        self._room = room
        self._weight = weight
        self._waiting = waiting

    def __iter__(self) -> Iterator[BatchShare]:
        """Yield shares as long as there is room; `used` must tell what was taken before the next one."""
        services = len(self._waiting)
        for service in sorted(self._waiting, key=lambda service: sum(size for size, _ in self._waiting[service])):
            room_of_others = self._room - max(1, self._room // services)
            weight_of_others = self._weight - max(1, self._weight // services)
            services -= 1
            partitions = sorted(self._waiting[service])
            for others, (_, partition) in zip(range(len(partitions), 0, -1), partitions, strict=True):
                if self._room <= 0 or self._weight <= 0:
                    return
                room, weight = self._room - room_of_others, self._weight - weight_of_others
                if room > 0 and weight > 0:
                    yield BatchShare(service, partition, max(1, room // others), max(1, weight // others))

    def used(self, records: int, weight: int) -> None:
        """Note what was taken."""
        self._room -= records
        self._weight -= weight
