"""What a desk does with a service that holds its requests back."""

from gate.kafka.changelog import FORMAT, Meta
from gate.kafka.clock import MS
from gate.kafka.desk import HOLD_ROOM, Desk
from gate.kafka.ports import Fetched, Inbox, Partition, Pool
from gate.kafka.topics import Names
from gate.policy import parse_policy
from tests.sim.log import Stored

SECOND = 1_000 * MS
NOW = 1_764_000_000 * SECOND
POLICY = "services: {slow: {requests_per_second: 1, burst_size: 1, overflow: hold}}"
FIRST, SECOND_ONE = Partition("gate.requests.slow", 0), Partition("gate.requests.slow", 1)


def test_what_is_held_is_looked_at_sparingly_and_each_partition_has_its_turn():
    desk = Desk(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, NOW)
    served = desk.serve("slow", NOW)
    inbox = Inbox(1 << 20, Pool(1 << 20, 1), lambda: None)
    for partition, count in ((FIRST, 1000), (SECOND_ONE, 3)):
        inbox.put(partition, Fetched([Stored(i, 1, b"k", b"v", ()) for i in range(count)], count, 10 * count))

    went, looks, ends = [], [], {}
    for second in range(8):
        inbox.held.clear()
        taken = []
        for partition in sorted(inbox.waiting):
            taken.append((partition.number, *inbox.take(partition, served.room or 4_000)))
        looks.append(sum(len(records) for _, records, _ in taken))
        turn = desk.decide(served, NOW + second * SECOND, taken, inbox)
        held = min(decision.first for decision in turn.step.decisions if decision.verdict.name == "HELD")
        assert held == sum(len(piece.records) for piece in turn.pieces)
        went += [piece.partition for piece in turn.pieces for _ in piece.records]
        ends |= {piece.partition: piece.end for piece in turn.pieces}

    assert went == [0, 1, 0, 1, 0, 1, 0, 0]
    assert looks[0] == 1003
    assert max(looks[1:]) <= 2 * HOLD_ROOM
    assert ends == {0: 5, 1: 3}
