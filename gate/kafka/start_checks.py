"""Checks before a gate decides anything: whether the state that is there is its own, and holds what it is to decide."""

from collections.abc import Mapping

from gate.errors import GateError
from gate.kafka.aio.compacted import read_all
from gate.kafka.aio.reader import Reader
from gate.kafka.cluster import Cluster
from gate.kafka.membership import state_lost
from gate.kafka.reporting import shard_in
from gate.policy import Policy
from gate.protocol.topics import Names
from gate.shard.placement import shard_of
from gate.shard.records import Partition


async def check_topics(cluster: Cluster, names: Names, shards: int, group_id: str, *, reset: bool) -> None:
    """Make the topics that all services share. Raises GateError if the state is not that of this gate, or is lost.

    `reset`: it is to be lost.
    """
    there = await cluster.partitions()
    state = names.state
    if there.get(state, shards) != shards:
        raise GateError(
            f"topic {state} has {there[state]} partitions, but this gate was started with {shards} shards",
            hint=f"start it with `--shards {there[state]}`; `gate reshard` changes the number",
        )
    if state not in there and not reset:
        await _check_first_start(cluster, names, group_id, there)
    await cluster.ensure(*cluster.common_specs(shards))
    if state in there:
        kind = (await cluster.configs(state))[state].get("message.timestamp.type")
        if kind != "LogAppendTime":
            raise GateError(
                f"topic {state} has message.timestamp.type={kind}; the gate takes its time from there",
                hint=f"kafka-configs.sh --alter --topic {state} --add-config message.timestamp.type=LogAppendTime",
            )


async def _check_first_start(cluster: Cluster, names: Names, group_id: str, there: Mapping[str, int]) -> None:
    """Raise GateError if the state topic is missing although the group has decided requests."""
    requests = [Partition(t, n) for t, count in there.items() if names.service_of(t) for n in range(count)]
    decided = await cluster.offsets(group_id, requests)
    # another gate may have started meanwhile, made the topic and decided
    if decided and names.state not in await cluster.partitions():
        raise state_lost(names.state)


async def last_shards(reader: Reader, names: Names) -> dict[str, int]:
    """Return the shard on which each service was seen last, from the newest usage records."""
    newest = await read_all(reader, Partition(names.usage, 0))
    generation = names.generation
    return {service: shard for service, record in newest.items() if (shard := shard_in(record, generation)) is not None}


def check_shards(last: Mapping[str, int], policy: Policy, shards: int) -> None:
    """Raise GateError if services would leave the shard that holds their limits and what they have parked."""
    moved = [s for s, shard in sorted(last.items()) if shard_of(policy.shard_key(s), shards) != shard]
    if moved:
        more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
        raise GateError(
            f"the policy puts {', '.join(moved[:3])}{more} into another group, hence on another shard than the one "
            "that holds its limits and what it has parked",
            hint="keep `group` as it was; `gate reshard --move SERVICE --group NAME` moves it with its state",
        )
