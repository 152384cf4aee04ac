"""What system tests share: gates as real processes, producers, and readers that see committed records only."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.structs import ConsumerRecord

from gate.kafka.local import config
from gate.protocol.headers import Stamp, parse_stamp

DEADLINE = 40.0


class GateProcess:
    """`gate run` as a process of its own. Its log is kept, and shown when something goes wrong."""

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        prefix: str,
        policy: str,
        *args: str,
        env: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "gate"),
    ):
        self.bootstrap = bootstrap
        self.config = folder / "policy.yaml"
        self.config.write_text(f"prefix: {prefix}\nsession_timeout: 2\ndiscovery_interval: 0.5\n{policy}")
        self.log = folder / f"gate-{time.monotonic_ns()}.log"
        self._out = self.log.open("wb")
        command = [sys.executable, *program, "run", "--config", str(self.config), "--bootstrap", bootstrap, *args]
        self.process = subprocess.Popen(
            command, stdout=self._out, stderr=self._out, env={**os.environ, **(env or {})}, start_new_session=True
        )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, deadline: float = DEADLINE) -> str:
        until(lambda: text in self.text() or self.process.poll() is not None, deadline, self.text)
        assert text in self.text(), self.text()
        return self.text()

    def url(self) -> str:
        line = next(line for line in self.wait_for("serving http").splitlines() if "serving http" in line)
        return line.split("url=")[1].strip()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url() + path, timeout=5) as answer:
            return answer.read().decode()

    def readiness(self) -> str:
        """Return what `/readyz` says, ready or not; nothing where nobody answers."""
        assert self.process.poll() is None, self.text()
        try:
            return self.get("/readyz")
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def is_ready(self) -> bool:
        return bool(json.loads(self.readiness() or "{}").get("ready"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._out.close()


@contextmanager
def gate(
    folder: Path,
    bootstrap: str,
    prefix: str,
    policy: str,
    *args: str,
    env: dict[str, str] | None = None,
    program: Sequence[str] = ("-m", "gate"),
) -> Iterator[GateProcess]:
    """Run a gate until the end of the block."""
    process = GateProcess(folder, bootstrap, prefix, policy, *args, env=env, program=program)
    try:
        yield process
    finally:
        process.close()


def until(condition: Callable[[], object], deadline: float = DEADLINE, explain: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition; fail with an explanation after the deadline."""
    begun = time.monotonic()
    while not condition():
        waited = time.monotonic() - begun
        assert waited < deadline, f"not within {deadline:g} s\n{explain()}"
        time.sleep(max(0.02, min(0.1, waited / 10)))  # who asks too often keeps what is asked from getting there


def guarded_by_password(port: int, users: Iterable[str]) -> dict[str, str]:
    """Return a broker's properties with a second listener, at which these users have the password `secret` and ACLs."""
    logins = " ".join(f'user_{user}="secret"' for user in users)
    return {
        "listeners": f"GUARDED://{config.HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.guarded.plain.sasl.jaas.config": (
            f"org.apache.kafka.common.security.plain.PlainLoginModule required {logins};"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


async def create(bootstrap: str, *topics: str, partitions: int = 2, copies: int = 1, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(t, partitions, copies, topic_configs=config) for t in topics])
        assert not any(code for _, code, *_ in answer.topic_errors), answer
        while set(topics) - (await known(admin._client, topics)).topics():
            await asyncio.sleep(0.02)
    finally:
        await admin.close()


async def known(client: AIOKafkaClient, topics: Iterable[str]) -> ClusterMetadata:
    """Ask about these topics alone, as the broker has those of hundreds of other tests; some may not be there yet."""
    cluster = ClusterMetadata()
    cluster.need_all_topic_metadata = True  # so that nobody complains of those
    await client._metadata_update(cluster, list(topics))
    return cluster


async def send(
    bootstrap: str, topic: str, requests: Iterable[tuple[bytes | None, bytes | None, Sequence]], partitions: int = 2
) -> None:
    """Send (key, value, headers); what has no key goes round robin."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=2)
    await producer.start()
    try:
        futures = [
            await producer.send(topic, value, key=key, headers=list(headers), partition=i % partitions)
            for i, (key, value, headers) in enumerate(requests)
        ]
        await asyncio.gather(*futures)
    finally:
        await producer.stop()


async def read(
    bootstrap: str, topics: Sequence[str], enough: Callable[[list[ConsumerRecord]], bool], deadline: float = DEADLINE
) -> list[ConsumerRecord]:
    """Read committed records of topics from their beginning until there are enough; all there were at the deadline."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        metadata_max_age_ms=500,
    )
    await consumer.start()
    records: list[ConsumerRecord] = []
    assigned: set[TopicPartition] = set()
    end = time.monotonic() + deadline
    try:
        while not enough(records) and time.monotonic() < end:
            cluster = await known(consumer._client, topics)
            there = {TopicPartition(t, p) for t in topics for p in (cluster.partitions_for_topic(t) or ())}
            if there - assigned:
                positions = {tp: await consumer.position(tp) for tp in assigned}
                assigned = there
                consumer.assign(list(there))
                for tp in there:
                    consumer.seek(tp, positions.get(tp, 0))
            if not assigned:
                await asyncio.sleep(0.05)
                continue
            for part in (await consumer.getmany(timeout_ms=100)).values():
                records += part
    finally:
        await consumer.stop()
    return records


async def read_count(
    bootstrap: str, topics: Sequence[str], count: int, deadline: float = DEADLINE
) -> list[ConsumerRecord]:
    return await read(bootstrap, topics, lambda records: len(records) >= count, deadline)


def stamp(record: ConsumerRecord) -> Stamp:
    (value,) = [value for name, value in record.headers if name == "gate"]
    return parse_stamp(value)


def header(record: ConsumerRecord, name: str) -> bytes | None:
    return dict(record.headers).get(name)


def assert_never_over(
    stamps: Iterable[int], *, rate: Fraction | None, burst: int, windows: Sequence[tuple[int, int]] = ()
) -> None:
    """Check admission times (ms, of unit cost) against a bucket and windows of (limit, ms), exactly."""
    times = sorted(stamps)
    for limit, size in windows:
        for i in range(len(times) - limit):
            assert times[i + limit] - times[i] >= size, (
                f"{limit + 1} within {times[i + limit] - times[i]} ms of {size} ms"
            )
    if rate is not None:
        lowest = None  # the least of (j - rate * t_j): what was admitted until then, beyond the rate
        for i, time_ms in enumerate(times):
            value = i - rate * Fraction(time_ms, 1000)
            lowest = value if lowest is None else min(lowest, value)
            assert value - lowest + 1 <= burst, f"bucket exceeded at {time_ms}: {float(value - lowest + 1)} > {burst}"
