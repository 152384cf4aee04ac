"""The local broker: it serves, survives what chaos tests do to it, and leaves nothing behind."""

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def test_a_broker_answers(bootstrap, prefix):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(f"{prefix}.requests.a", 2, 1)])
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
        await producer.start()
        sent = await producer.send_and_wait(f"{prefix}.requests.a", b"x", partition=1)
        await producer.stop()
    finally:
        await admin.close()
    assert sent.offset == 0
