"""What a member of the group owns by what it was assigned, and what it can prove to own."""

import asyncio

import pytest
from aiokafka.structs import TopicPartition

from gate.kafka.membership import Membership, NotOwnedError, owned_by
from gate.protocol.topics import Names
from gate.shard.records import Partition

NAMES = Names()
SHARDS = {"gate.requests.pay": 0, "gate.requests.mail": 0, "gate.requests.sms": 1}


@pytest.mark.parametrize(
    ("assigned", "owned"),
    [
        ([], {}),
        ([("gate.state", 0)], {0: {}}),  # a shard without services
        ([("gate.state", 0), ("gate.requests.pay", 0)], {0: {"pay": 1}}),
        ([("gate.requests.pay", 2), ("gate.state", 0), ("gate.requests.pay", 0)], {0: {"pay": 3}}),  # in any order
        ([("gate.state", 0), ("gate.requests.pay", 1), ("gate.requests.mail", 0)], {0: {"pay": 2, "mail": 1}}),
        ([("gate.state", 1), ("gate.requests.sms", 0), ("gate.requests.pay", 0)], {1: {"sms": 1}}),  # not its shard
        ([("gate.requests.pay", 0)], {}),  # requests without the state of their shard are another member's
        ([("gate.state", 0), ("gate.state", 1), ("orders", 3)], {0: {}, 1: {}}),  # a topic of somebody else
    ],
)
def test_a_shard_is_owned_with_its_state_and_services_with_their_shard(assigned, owned):
    assert owned_by(assigned, NAMES, SHARDS.get) == owned


class Member:
    """A member that a group assigns partitions to, without a broker."""

    def __init__(self, revoked=None) -> None:
        self.assigned: list[dict] = []
        self.membership = Membership(
            NAMES,
            "gate",
            2,
            {"pay": "pay", "sms": "sms"}.get,
            session_timeout=2.0,
            discovery_interval=1.0,
            on_revoked=revoked or self._revoked,
            on_assigned=self.assigned.append,
            bootstrap_servers="127.0.0.1:1",
        )

    async def _revoked(self) -> None:
        pass


async def test_who_was_assigned_nothing_can_prove_nothing():
    member = Member()
    try:
        with pytest.raises(NotOwnedError, match="the group gave shard 0 to another gate"):
            await member.membership.confirm(0)
    finally:
        await member.membership.stop()


async def test_a_batch_that_does_not_end_holds_no_rebalance_up(monkeypatch):
    monkeypatch.setattr("gate.kafka.membership.REVOKE_DEADLINE", 0.01)
    begun = asyncio.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    member = Member(never)
    try:
        await member.membership.on_partitions_revoked([TopicPartition("gate.state", 0)])
        assert begun.is_set()
    finally:
        await member.membership.stop()


async def test_offsets_of_delayed_topics_alone_ask_no_broker():
    member = Member()
    try:
        await member.membership.commit({Partition("gate.delayed.pay", 0): 7})  # it would raise: there is no broker
    finally:
        await member.membership.stop()
