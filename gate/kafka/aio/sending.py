"""Interface of what stands between a session and aiokafka's producer; each path has its own."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from gate.shard.records import Outgoing, Partition, Raw

T = TypeVar("T")


class Refusal(NamedTuple):
    """Why a broker did not take a batch: the error, which of its records (index in the batch, why), and in words."""

    code: int
    records: tuple[tuple[int, str], ...]
    message: str


class Sending(Protocol):
    """A producer that tells what brokers answer, and that can be stopped for sure."""

    client: Any
    """Its network client, with `asked`."""

    @property
    def producer_id(self) -> int:
        """The id that the coordinator gave, once the producer has been started."""

    @property
    def epoch(self) -> int:
        """The epoch that the coordinator gave with it."""

    @property
    def marking(self) -> float:
        """For about how many seconds a broker writes the markers of a transaction after it has answered."""

    @property
    def refused(self) -> Mapping[Any, Refusal]:
        """Why batches were not taken, the first one of each partition: nothing is written after it."""

    def begin(self) -> None:
        """Begin a transaction, at the latest with what is expected or added next."""

    async def expect(self, partitions: Sequence[Partition]) -> None:
        """Add partitions to the transaction together, as far as that can be done ahead of what is written there."""

    async def add(self, partitions: Sequence[Partition]) -> None:
        """Add partitions to the transaction, in which nothing is written there."""

    async def unless_refused(self, work: Awaitable[T]) -> T:
        """Await what writes. Raises OutputError as soon as it is clear that a partition is not there."""

    def fill(self, builder: Any, records: Sequence[Outgoing | Raw], start: int) -> int:
        """Put records from `start` on into a batch until it is full; return how many. A first record always fits."""

    def weigh(self, builder: Any) -> int:
        """Return how many bytes a batch takes as it is written."""

    def sent(self, batch: "asyncio.Future[Any]") -> None:
        """Take note of a batch that is under way."""

    async def stop(self, seconds: float) -> None:
        """End every request, then the connections, and wait for neither longer than this."""
