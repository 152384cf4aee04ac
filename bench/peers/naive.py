"""The loop that everybody writes: aiokafka, `async for`, a decision by `limits`, `send`."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.peers.options import Options, Window, parse


async def main(options: Options) -> None:
    window = Window(options.limit)
    consumer = AIOKafkaConsumer(
        options.requests,
        bootstrap_servers=options.bootstrap,
        group_id=options.group,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=options.bootstrap, linger_ms=5)
    await consumer.start()
    await producer.start()
    async for record in consumer:
        admitted = window.admits()
        await producer.send(
            options.admitted if admitted else options.delayed,
            record.value,
            key=record.key,
            partition=record.partition,
            timestamp_ms=record.timestamp,
            headers=[*record.headers, ("decision", b"admitted" if admitted else b"delayed")],
        )


if __name__ == "__main__":
    asyncio.run(main(parse()))
