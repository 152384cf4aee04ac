"""Pauses that operators command are answered like all else."""

from gate.protocol.answers import decode_answer, decode_audit
from gate.protocol.control import PauseUntil, Resume
from gate.shard.owner_views import Received
from gate.shard.records import Partition
from gate.units import MS, SECOND
from tests.shard.memory import NOW, Kafka, running, until

ANSWERS, AUDIT = Partition("gate.answers", 0), Partition("gate.audit", 0)


async def test_a_pause_and_a_resume_are_answered_and_noted():
    kafka = Kafka()
    given = [
        Received(0, "pay", PauseUntil(NOW // MS + 3_600_000, service="pay"), True, "p", "ann", "why", NOW // MS),
        Received(1, "pay", Resume(service="pay"), True, "r", "ann", "", NOW // MS),
        Received(
            2, "pay", PauseUntil(NOW // SECOND * 100, service="pay"), True, "s", "bob", "", NOW // MS
        ),  # in another unit
        Received(3, "pay", PauseUntil(NOW // MS + 1_000, service="pay"), False),  # of a worker: nobody asks for it
    ]
    async with running(kafka) as (shard, around):
        around.feedback.since = lambda offset: given[offset:]
        await until(lambda: shard.ready)
        shard.heed()
        await until(lambda: shard._state.services["pay"].engine.paused_until() == NOW + 1_000 * MS)
        await until(lambda: len(kafka.logs.get(ANSWERS, ())) == 3)
    told = [decode_answer(record[1]) for record in kafka.logs[ANSWERS]]
    assert [(one.command, one.service, one.state) for one in told] == [
        ("p", "pay", "done"), ("r", "pay", "done"), ("s", "pay", "failed"),
    ]  # fmt: skip
    noted = [decode_audit(record[1]) for record in kafka.logs[AUDIT]]
    assert [(one.what, one.result) for one in noted] == [("pause", "done"), ("resume", "done"), ("pause", "failed")]
