"""FastStream on aiokafka, with a token bucket of throttled-py."""

import asyncio

from faststream import FastStream
from faststream.kafka import KafkaBroker
from throttled import MemoryStore, RateLimiterType, Throttled
from throttled.rate_limiter import per_duration

from bench.peers.options import PERIOD, Options, parse


def main(options: Options) -> None:
    broker = KafkaBroker(options.bootstrap, linger_ms=5, logger=None)  # by default it logs two lines per record
    quota = per_duration(PERIOD, options.limit, burst=options.limit)
    throttle = Throttled(using=RateLimiterType.TOKEN_BUCKET.value, quota=quota, store=MemoryStore())

    @broker.subscriber(options.requests, group_id=options.group, auto_offset_reset="earliest")
    async def handle(body: bytes) -> None:
        # FastStream would hand over the message as an argument too, but by a thread of a pool: some 300 us more
        message = broker.context.get_local("message")
        admitted = not throttle.limit("service").limited
        record = message.raw_message
        await broker.publish(
            body,
            options.admitted if admitted else options.delayed,
            key=record.key,
            partition=record.partition,
            timestamp_ms=record.timestamp,
            headers={**message.headers, "decision": "admitted" if admitted else "delayed"},
            no_confirm=True,  # else it waits for the broker's answer to each record, some 300 us
        )

    asyncio.run(FastStream(broker).run())


if __name__ == "__main__":
    main(parse())
