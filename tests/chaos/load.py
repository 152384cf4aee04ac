"""What a chaos run offers: services of every kind, and producers that write numbered requests at a steady rate."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from gate.protocol.topics import Names

PREFIX = "chaos"
NAMES = Names(PREFIX)
SHARDS = 6
PARTITIONS = 2
TICK = 0.05
KEYS = 20
PRODUCERS = 2
BATCH_BYTES = 500_000
BATCH_RECORDS = 500

# share of all requests, and what the service may admit of what is offered: bursts too small for the time in which
# nobody decides, so that a good part is parked, and rates that make up for it, so that all is gone soon after the end
SHARES: dict[str, tuple[float, float]] = {
    "calm": (0.20, 10.0),
    "busy": (0.20, 2.4),
    "quick": (0.10, 2.4),
    "lanes": (0.12, 2.4),
    "tenants": (0.08, 2.4),
    "costly": (0.06, 2.4),
    "left": (0.07, 0.5),
    "right": (0.07, 0.5),
    "reject": (0.05, 0.8),
    "hold": (0.05, 3.0),
}
SATURATED = ("busy", "quick", "lanes")  # unit costs, one budget of their own, nothing refused: their ideal is known
COSTS = (1, 1, 1, 2, 5)
TENANTS = ("acme", "beta", "gamma", "delta")


def policy(total_rate: float) -> str:
    """Return the policy file of a run that offers `total_rate` requests a second."""

    def limits(units: float, burst_seconds: float = 0.8) -> str:
        rate = max(1, round(units))
        return f"requests_per_second: {rate}, burst_size: {max(5, round(burst_seconds * rate))}"

    own = {name: total_rate * share * allowed for name, (share, allowed) in SHARES.items()}
    cost = sum(COSTS) / len(COSTS)
    pair = own["left"] + own["right"]
    return f"""
shards: {SHARDS}
defaults: {{overflow: delay, max_delay: 7200}}
groups:
  pair: {{{limits(4 * pair)}}}
services:
  calm: {{{limits(own["calm"])}}}
  busy: {{{limits(own["busy"])}}}
  quick: {{{limits(own["quick"])}}}
  lanes: {{{limits(own["lanes"])}, priorities: {{interactive: 6, default: 3, batch: 1}}}}
  tenants:
    {limits(own["tenants"]).replace(", ", chr(10) + "    ")}
    tenants: {{default: {{{limits(own["tenants"] / 4.2)}}}, acme: {{{limits(own["tenants"] / 2)}}}}}
  costly: {{{limits(own["costly"] * cost)}}}
  left: {{group: pair, {limits(5 * pair)}}}
  right: {{group: pair, {limits(5 * pair)}}}
  reject: {{{limits(own["reject"])}, overflow: reject}}
  hold: {{{limits(own["hold"])}, overflow: hold}}
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One numbered request."""

    partition: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def requests(service: str) -> Iterator[Request]:
    """Yield the requests of a service, without end; always the same ones."""
    number = 0
    while True:
        key = number * 7919 % KEYS
        yield Request(key % PARTITIONS, b"k%d" % key, b"%s %d" % (service.encode(), number), _headers(service, number))
        number += 1


def _headers(service: str, number: int) -> tuple[tuple[str, bytes], ...]:
    if number % 997 == 996:
        return (("gate-cost", b"NaN"),)
    if service == "lanes":
        return (("gate-priority", (b"interactive", b"default", b"default", b"batch", b"batch")[number // 8 % 5]),)
    if service == "tenants":
        return (("gate-tenant", TENANTS[number // 5 % len(TENANTS)].encode()),)
    if service == "costly":
        return (("gate-cost", b"1000000" if number % 501 == 500 else b"%d" % COSTS[number // 3 % len(COSTS)]),)
    return (("trace", b"%d" % number),)


class Offering:
    """Producers that offer `total` requests within `seconds`, spread over all services.

    They wait where `progress` (0 to 1) falls behind, so that there is traffic for as long as something is to be broken.
    """

    def __init__(
        self,
        bootstrap: str,
        total: int,
        seconds: float,
        progress: Callable[[], float] = lambda: 1.0,
        **client_options: object,
    ) -> None:
        self._progress = progress
        self._options = {"bootstrap_servers": bootstrap, **client_options}
        self._seconds = seconds
        self._counts = {name: round(total * share) for name, (share, _) in SHARES.items()}
        self._counts["calm"] += total - sum(self._counts.values())
        self.enough = False  # offer no more, although there is some
        self.sent: dict[str, int] = dict.fromkeys(self._counts, 0)  # acknowledged
        self.unknown: dict[str, int] = dict.fromkeys(self._counts, 0)

    async def run(self) -> None:
        """Offer everything; return when the broker has it all."""
        names = list(self._counts)
        await asyncio.gather(*(self._produce(names[i::PRODUCERS]) for i in range(PRODUCERS)))

    async def _produce(self, services: Sequence[str]) -> None:
        producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=120_000,
            **self._options,
        )
        await producer.start()
        try:
            await asyncio.gather(*(self._offer(producer, service) for service in services))
        finally:
            await producer.stop()

    async def _offer(self, producer: AIOKafkaProducer, service: str) -> None:
        source, total, rate = requests(service), self._counts[service], self._counts[service] / self._seconds
        topic, begun, given = NAMES.requests(service), monotonic(), 0
        waiting: list[tuple[asyncio.Future[RecordMetadata], int]] = []
        while given < total and not self.enough:
            share = min(1.0, (monotonic() - begun + TICK) / self._seconds, self._progress())
            due = min(int(total * share) - given, 1 + int(2 * rate * TICK))  # what was held up comes bit by bit
            by_partition: dict[int, list[Request]] = {}
            for request in islice(source, max(0, due)):
                by_partition.setdefault(request.partition, []).append(request)
            for partition, part in by_partition.items():
                for first in range(0, len(part), BATCH_RECORDS):
                    waiting.append(await _send(producer, topic, partition, part[first : first + BATCH_RECORDS]))
            given += max(0, due)
            waiting = [entry for entry in waiting if not self._is_done(service, *entry)]
            await asyncio.sleep(TICK)
        for future, count in waiting:
            await future
            self._is_done(service, future, count)

    def _is_done(self, service: str, future: "asyncio.Future[RecordMetadata]", count: int) -> bool:
        # without an offset nobody knows what became of a batch: aiokafka takes a repeated sequence number for success
        if future.done():
            (self.sent if future.result().offset >= 0 else self.unknown)[service] += count
        return future.done()


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, part: Sequence[Request]
) -> tuple["asyncio.Future[RecordMetadata]", int]:
    batch = producer.create_batch()
    for request in part:
        added = batch.append(key=request.key, value=request.value, timestamp=None, headers=list(request.headers))
        assert added is not None, "the batch is too small"
    batch.close()
    return await producer.send_batch(batch, topic, partition=partition), len(part)
