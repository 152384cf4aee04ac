"""confluent-kafka: lists of messages from `consume`, a decision by `limits`, `produce`."""

from confluent_kafka import Consumer, Producer

from bench.peers.options import Options, Window, parse


def main(options: Options) -> None:
    window = Window(options.limit)
    consumer = Consumer(
        {
            "bootstrap.servers": options.bootstrap,
            "group.id": options.group,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 5,  # the default of a second would let it wait for a queue that has run empty
        }
    )
    producer = Producer({"bootstrap.servers": options.bootstrap, "linger.ms": 5})
    consumer.subscribe([options.requests])
    while True:
        messages = consumer.consume(1000, timeout=0.1)
        for message in messages:
            if message.error():
                raise SystemExit(str(message.error()))
            admitted = window.admits()
            arguments = {
                "topic": options.admitted if admitted else options.delayed,
                "value": message.value(),
                "key": message.key(),
                "partition": message.partition(),
                "timestamp": message.timestamp()[1],
                "headers": [*message.headers(), ("decision", b"admitted" if admitted else b"delayed")],
            }
            try:
                producer.produce(**arguments)
            except BufferError:  # its queue is full
                producer.poll(0.1)
                producer.produce(**arguments)
        producer.poll(0)


if __name__ == "__main__":
    main(parse())
