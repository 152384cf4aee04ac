"""Pacers before a real gate on a real broker."""

import asyncio
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
from aiokafka import AIOKafkaProducer

from gate.client._pacing import Pacer, SyncPacer
from gate.kafka.connect import BrokerUnreachableError
from tests.system.gates import assert_never_over, create, gate, read_count, send, stamp, until

POLICY = "services:\n  pay: {requests_per_second: 200, burst_size: 40, window_size: null}\n"


@pytest.fixture
async def producer(bootstrap):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=2)
    await producer.start()
    yield producer
    await producer.stop()


@pytest.mark.long
async def test_a_pipeline_goes_as_fast_as_the_gate_admits(bootstrap, prefix, tmp_path, producer):
    """The short form for real of what test_throttle.py shows for a minute."""
    count, max_wait, topic = 1000, 1.0, f"{prefix}.requests.pay"
    await create(bootstrap, topic)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        started = time.monotonic()
        async with Pacer(bootstrap, "pay", prefix=prefix, max_wait=max_wait) as pacer:
            async for item in pacer.pace(range(count)):
                await producer.send(topic, b"%d" % item)
            released_in = time.monotonic() - started
            assert pacer.released == count
            assert 0 < pacer.eta_seconds(100) < 100 / 200 + max_wait
        out = await read_count(bootstrap, [f"{prefix}.admitted.pay"], count)
    assert sorted(int(r.value) for r in out) == list(range(count))
    waited = sorted(stamp(r).at_ms - stamp(r).created_ms for r in out)
    at = [stamp(r).at_ms for r in out]
    assert_never_over(at, rate=Fraction(200), burst=40)
    ideal = (count - 40) / 200
    assert released_in >= ideal - max_wait - 0.1
    assert (max(at) - min(at)) / 1000 <= ideal * 1.02 + 1.0, max(at) - min(at)  # the first report takes its time
    assert waited[-1] <= max_wait * 1000, waited[-5:]


def test_scripts_are_paced_with_threads_and_from_the_command_line(bootstrap, prefix, tmp_path):
    topic, count = f"{prefix}.requests.pay", 200
    asyncio.run(create(bootstrap, topic))
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        asyncio.run(send(bootstrap, topic, [(None, b"first", [])]))  # so that its usage is there
        asyncio.run(read_count(bootstrap, [f"{prefix}.admitted.pay"], 1))
        with SyncPacer(bootstrap, "pay", prefix=prefix, max_backlog=50) as pacer:
            until(pacer.estimate)
            started = time.monotonic()
            items = pacer.pace(range(count - 100))
            one = threading.Thread(target=lambda: [pacer.acquire(10) for _ in range(10)])
            one.start()
            assert list(items) == list(range(count - 100))
            one.join()
            seconds = time.monotonic() - started
        assert pacer.released == count
        assert pacer.estimate().rate == 200.0
        command = [sys.executable, "-m", "gate", "submit", "pay", "--count", "300", "--max-wait", "0.5"]
        options = ["--bootstrap", bootstrap, "--prefix", prefix]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=30, check=True)
        out = asyncio.run(read_count(bootstrap, [f"{prefix}.admitted.pay"], 301))
    assert done.stdout.startswith(f"submitted 300 requests to {topic} in ")
    assert len(out) == 301
    assert max(stamp(r).at_ms - stamp(r).created_ms for r in out) <= 1000  # without pace: 1.3 s
    assert seconds >= 0.25 * count / 200  # nothing was sent: it takes the gate for quicker than it is, up to 1.5 times
    assert threading.active_count() < 10


async def test_a_gate_that_is_away_is_waited_for_or_not(bootstrap, prefix, caplog):
    async with Pacer(bootstrap, "pay", prefix=prefix, away_after=0.2) as waiting:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    await waiting.acquire(50)
        assert waiting.released == 50
        assert waiting.estimate() is None
        assert waiting.eta_seconds(1) is None
    assert caplog.text.count("no gate reports usage; waiting for it") == 1
    async with Pacer(bootstrap, "pay", prefix=prefix, away_after=0.2, when_away="go_on") as going:
        async with asyncio.timeout(5.0):
            assert [item async for item in going.pace(range(1000))] == list(range(1000))
    assert "going on" in caplog.text


async def test_a_broker_that_is_not_there_is_told_at_the_start():
    with pytest.raises(BrokerUnreachableError, match="no Kafka broker answers"):
        async with Pacer("127.0.0.1:1", "pay", connect_timeout=0.2):
            pass
    with pytest.raises(BrokerUnreachableError), SyncPacer("127.0.0.1:1", "pay", connect_timeout=0.2):
        pass


def test_what_makes_no_sense_is_told():
    for wrong in ({"max_wait": 0}, {"max_backlog": -1}, {"cost": 0}, {"when_away": "stop"}, {"max_wait": float("nan")}):
        with pytest.raises(ValueError):
            SyncPacer("localhost:9092", "pay", **wrong)
    with pytest.raises(ValueError, match="service"):
        SyncPacer("localhost:9092", "p a y")
