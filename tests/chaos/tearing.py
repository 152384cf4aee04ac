"""`gate` under a broker that dies at the end of a transaction: `python -m tests.chaos.tearing --commit run ...`.

Of the first batch of each service that admits and parks, the coordinator hears of no more than what TEARS leaves it. So
it ends that in some places, and in the others the batch stays open, as after a SIGKILL of the broker at that moment.
With `--commit` the batch is committed, else the next owner's fence aborts it. When every service has had its tear the
process kills itself. The broker must not verify what is written in a transaction.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition

from gate.cli import main
from gate.kafka.aio.session import KafkaSession
from gate.shard.records import CommittedOffset, Outgoing, Partition, Raw, Written

TEARS = {  # by service: what gets no marker
    "alpha": {"state"},
    "beta": {"admitted"},
    "gamma": {"delayed"},
    "delta": {"offsets"},
    "epsilon": {"admitted", "delayed"},
    "eta": {"state", "offsets"},
    "iota": {"admitted", "delayed", "offsets"},
    "kappa": {"state", "admitted", "delayed"},
    "lambda": {"state", "admitted", "delayed", "offsets"},
}


class Tearing:
    """Takes the place of two methods of the session."""

    def __init__(self, *, commit: bool) -> None:
        self._commit = commit
        self._left = set(TEARS)
        self._torn: dict[KafkaSession, str] = {}
        self._produce, self._end = KafkaSession.produce, KafkaSession.commit

    async def produce(
        self,
        session: KafkaSession,
        outputs: Mapping[Partition, Sequence[Outgoing | Raw]],
        marks: Mapping[Partition, CommittedOffset] | None = None,
    ) -> Mapping[Partition, Written]:
        kinds = {partition.topic.split(".")[1] for partition in outputs}
        if {"admitted", "delayed"} <= kinds:
            service = next(p.topic.split(".")[2] for p in outputs if p.topic.split(".")[1] == "admitted")
            if service in self._left:
                self._left.discard(service)
                self._torn[session] = service
        if session in self._torn:
            await session._sending.expect(())  # on the public path a transaction begins no sooner
            self._keep_from(session._producer._txn_manager, session, outputs, TEARS[self._torn[session]])
        return await self._produce(session, outputs, marks)

    @staticmethod
    def _keep_from(manager: Any, session: KafkaSession, outputs: Any, kinds: set[str]) -> None:
        """Have the client believe that the coordinator knows of partitions already."""
        for partition in (*outputs, session._state):
            if partition.topic.split(".")[1] in kinds:
                manager._txn_partitions.add(TopicPartition(*partition))
        if "offsets" in kinds:
            manager._txn_consumer_group = session._group
        alerts = TopicPartition(session._state.topic.replace("state", "alerts"), 0)
        manager.maybe_add_partition_to_txn(alerts)  # so that there is something to end

    async def commit(self, session: KafkaSession) -> None:
        if session not in self._torn:
            await self._end(session)
            return
        if self._commit:
            await self._end(session)
        del self._torn[session]
        if not self._left and not self._torn:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.Event().wait()


if __name__ == "__main__":
    tearing = Tearing(commit="--commit" in sys.argv)
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--commit"]
    KafkaSession.produce = lambda *args: tearing.produce(*args)  # type: ignore[method-assign]  # noqa: PLW0108
    KafkaSession.commit = lambda session: tearing.commit(session)  # type: ignore[method-assign]  # noqa: PLW0108
    sys.exit(main())
