"""Take-over of a shard: its new owner fences off who wrote before, and restores what is committed."""

from collections.abc import Callable, Mapping

import msgspec

from gate.policy import Policy
from gate.shard.batch_writer import BatchWriter
from gate.shard.changelog_records import LEAVING_KEY, META_KEY, StateClosedError, read_meta
from gate.shard.clock import BrokerClock
from gate.shard.environment import Environment
from gate.shard.failpoints import reach
from gate.shard.ports import Session
from gate.shard.positions import OFFSETS_KIND
from gate.shard.reader import ShardReader
from gate.shard.records import CommittedOffset, Partition
from gate.shard.state import ShardState
from gate.shard.time_slices import in_slices


class Successor:
    """The new owner of a shard, until it has the state as its predecessor had committed it."""

    def __init__(
        self, number: int, environment: Environment, session: Session, writer: BatchWriter, clock: BrokerClock
    ) -> None:
        self._number = number
        self._env = environment
        self._session = session
        self._writer = writer
        self._clock = clock
        self._committed: dict[str, bytes] = {}
        self._marks: Mapping[Partition, CommittedOffset] = {}
        self.keys = 0  # of the state that was committed
        self.leaving: bytes | None = None  # a note of what was on its way out

    async def claim(self, reader: ShardReader) -> None:
        """Fence off who wrote before, and learn what is committed. Only then may anything be read."""
        partitions = [p for service in reader.services for p in reader.partitions(service)]
        recovered = await self._session.claim(partitions)
        reach("after-claim")
        reader.claimed = set(partitions)
        self._committed, self._marks = dict(recovered.state), recovered.marks
        self.keys, self.leaving = len(self._committed), self._committed.get(LEAVING_KEY)

    async def restore(self, policy: Policy, now: Callable[[], int]) -> ShardState:
        """Return the state that was committed, once the changelog says that it is this owner's.

        `now` tells the broker's time, ns, as soon as it is known. Raises StateClosedError where the state has moved to
        another generation.
        """
        committed, self._committed = self._committed, {}  # it is taken apart: of a large state there is no room for two
        meta = read_meta(committed.get(META_KEY), self._env.shards)
        if meta.closed is not None:
            self._env.closed()
            raise StateClosedError(meta.closed)
        outdated: list[str] = []
        if not self._session.atomic:  # state comes before outputs: only the group knows what was decided in the end
            outdated = [key for key in committed if key.startswith(f"{OFFSETS_KIND}/")]
            meta = msgspec.structs.replace(meta, since=0)
        meta = await self._writer.claim(meta, outdated)
        self._clock.advance_to(meta.at, self._env.local())
        for key in outdated:
            del committed[key]
        state = ShardState(self._env.names, policy, meta, self._marks, begun := now())
        await in_slices(state.restore(committed, begun), self._env.local)
        state.start_mesh(self._number, begun, self._env.lease_ns)
        state.commands.exact = self._session.atomic
        return state
