"""The changelog: refused where it can't be read, reset only on demand."""

import json

from aiokafka import AIOKafkaProducer

from gate.shard.placement import shard_of
from tests.system.gates import create, gate, read, read_count, send, until

PLAIN = "defaults: {requests_per_second: 1/min}\n"


async def overwrite(bootstrap: str, topic: str, partition: int, key: bytes, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value, key=key, partition=partition)


async def test_a_state_that_cannot_be_read_stops_its_shard_clearly_until_it_is_reset(bootstrap, prefix, tmp_path):
    await create(bootstrap, f"{prefix}.requests.pay", f"{prefix}.requests.search")
    bad, good = shard_of("pay", 16), shard_of("search", 16)
    assert bad != good
    with gate(tmp_path, bootstrap, prefix, PLAIN) as running:
        await send(bootstrap, f"{prefix}.requests.pay", [(None, b"%d" % i, []) for i in range(5)])
        assert len(await read_count(bootstrap, [f"{prefix}.delayed.pay"], 4)) == 4, running.text()
        running.stop()
    await overwrite(bootstrap, f"{prefix}.state", bad, b"service/pay", b"\x09garbage")
    with gate(tmp_path, bootstrap, prefix, PLAIN, "--http", "0") as running:
        text = running.wait_for("the state of pay can't be read")
        assert "--state reset" in text
        await send(bootstrap, f"{prefix}.requests.search", [(None, b"others go on", [])])
        assert len(await read_count(bootstrap, [f"{prefix}.admitted.search"], 1)) == 1, running.text()
        failed = await read(
            bootstrap, [f"{prefix}.alerts"],
            lambda found: any(("ce_type", b"gate.shard.failed") in r.headers for r in found),
        )  # fmt: skip
        assert any(b"can't be read" in r.value for r in failed)
        until(lambda: f"shard {bad}: failed" in running.readiness(), explain=running.text)
        assert running.is_ready(), "the others go on"
        with gate(tmp_path / "..", bootstrap, prefix, PLAIN, "--state", "reset") as refused:
            assert refused.process.wait(40) == 1
            assert "stop them first" in refused.text()
        running.kill()
    with gate(tmp_path, bootstrap, prefix, PLAIN, "--state", "reset", "--http", "0") as running:
        assert "state was reset" in running.wait_for("state was reset")
        until(running.is_ready, explain=running.text)
        await send(bootstrap, f"{prefix}.requests.pay", [(None, b"after", [])])
        out = await read(bootstrap, [f"{prefix}.admitted.pay"], lambda found: any(r.value == b"after" for r in found))
        ended = await read(
            bootstrap, [f"{prefix}.alerts"],
            lambda found: any(("ce_type", b"gate.shard.recovered") in r.headers for r in found),
        )  # fmt: skip
        (told,) = [json.loads(r.value) for r in ended if ("ce_type", b"gate.shard.recovered") in r.headers]
        assert (told["shard"], told["gate"].rpartition(":")[2]) == (bad, str(running.process.pid)), "who died had begun"
    assert any(r.value == b"after" for r in out), running.text()
