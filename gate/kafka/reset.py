"""`--state reset`: forget all limits and all that is parked, on purpose and saying so."""

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from gate.kafka.generations import PLACEMENT_KEY
from gate.shard.changelog_records import FORMAT, META_KEY, Meta, encode_meta
from gate.shard.ports import Session
from gate.shard.records import Outgoing, Partition

KINDS: Final = {
    "service": "services",
    "tenant": "tenants",
    "group": "groups",
    "parked": "parked segments",
    "scheduled": "scheduled segments",
}

log = structlog.get_logger("gate.reset")


async def reset(state_topic: str, shards: int, new_session: Callable[[int], Session]) -> Counter[str]:
    """Delete the state of every shard; return how much of each kind there was.

    Requests that are parked stay in the delayed topics, but nobody will admit them any more. Each shard is fenced
    first, so that a gate that still runs can't write its state back.
    """
    forgotten: Counter[str] = Counter()
    for shard in range(shards):
        session = new_session(shard)
        try:
            claim = await session.claim([])
            if claim.state:
                kept = {META_KEY, PLACEMENT_KEY}
                gone = [Outgoing(key.encode(), None, None, []) for key in claim.state if key not in kept]
                begun = encode_meta(Meta(FORMAT, shards))  # its generation stays in force
                gone.append(Outgoing(META_KEY.encode(), begun, None, []))
                session.begin()
                await session.produce({Partition(state_topic, shard): gone})
                await session.commit()
            for key in claim.state:
                if (kind := KINDS.get(key.partition("/")[0])) is not None:
                    forgotten[kind] += 1
        finally:
            await session.discard()
    log.warning("state was reset: limits start full, and nobody admits what was parked", **forgotten)
    return forgotten
