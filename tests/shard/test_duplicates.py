"""Requests of one id: the first one passes, what repeats it is refused and told which that was."""

import pytest

from gate.admission.model import Reason, Verdict
from gate.policy import parse_policy
from gate.protocol.headers import parse_stamp
from gate.protocol.topics import Names
from gate.shard.buffer import FetchBuffer, MemoryPool
from gate.shard.changelog_records import FORMAT, Meta
from gate.shard.routing import Batch
from gate.shard.state import ShardState
from gate.units import MS
from tests.sim.log import Stored

SECOND = 1_000 * MS
NOW = 1_764_000_000 * SECOND
POLICY = "services: {{pay: {{requests_per_second: 1, burst_size: {burst}, deduplicate: {once}{more}}}}}"


class Shop:
    """A shard with one service, decided in memory."""

    def __init__(self, once="1h", burst=100, more=""):
        self.policy = parse_policy(POLICY.format(once=once, burst=burst, more=more))
        self.state = ShardState(Names(), self.policy, Meta(FORMAT, 16), {}, NOW)
        self.served = self.state.serve("pay", NOW)
        self.buffer = FetchBuffer(1 << 20, MemoryPool(1 << 20, 1), lambda: None)
        self.kept = {}
        self.ends = {}
        self.delayed = []

    def take(self, *ids, at=NOW, partition=0, retried=False, **headers):
        """Decide about requests of these ids; return the verdict and reason of each, and what is refused."""
        first = self.ends.get(partition, 0)
        given = [(name.replace("_", "-"), value) for name, value in headers.items()]
        records = []
        for number, name in enumerate(ids):
            more = name if isinstance(name, list) else [] if name is None else [("gate-id", name)]
            records.append(Stored(first + number, 1, b"k", b"v", (*more, *given)))
        self.ends[partition] = first + len(ids)
        parts = [(partition, records, first + len(ids))]
        return self.decide(at, [] if retried else parts, parts if retried else [])

    def decide(self, at, taken, retried=()):
        turn = self.state.decide(self.served, at, taken, self.buffer, retried=retried)
        told = {wish.index: (Verdict.REJECTED, wish.refusal.malformed.reason) for wish in turn.refused}
        for decision in turn.step.decisions:
            for number in range(decision.first, decision.first + decision.count):
                assert number not in told
                told[number] = decision.verdict, decision.reason
        batch = Batch(at)
        turn.pulled = [(p, [self.delayed[n] for n in range(p.offset, p.offset + p.count)]) for p in turn.step.pulls]
        self.state.route(turn, batch)
        self.out = batch.outputs
        places = {}
        for place, records in batch.outputs.items():
            if place.topic == "gate.delayed.pay":
                places[place] = range(len(self.delayed), len(self.delayed) + len(records))
                self.delayed += [
                    Stored(len(self.delayed) + n, 1, r[0], r[1], tuple(r[3])) for n, r in enumerate(records)
                ]
        self.state.parked([turn], places)
        for key, value in self.state.changes([turn]).items():
            if value is None:
                self.kept.pop(key, None)
            else:
                self.kept[key] = value
        return [told[number] for number in sorted(told)]

    def restart(self):
        self.state = ShardState(Names(), self.policy, Meta(FORMAT, 16), {}, NOW)
        list(self.state.restore(dict(self.kept), NOW))
        self.served = self.state.serve("pay", NOW)


ADMITTED = (Verdict.ADMITTED, None)
DUPLICATE = (Verdict.REJECTED, "duplicate")


def test_what_repeats_another_is_refused_with_the_id_of_the_first():
    shop = Shop()
    assert shop.take(b"a", b"b", None, None) == [ADMITTED] * 4
    shop.restart()
    assert shop.take(b"c", b"a", b"d") == [ADMITTED, DUPLICATE, ADMITTED]
    (record,) = next(records for place, records in shop.out.items() if place.topic == "gate.rejected.pay")
    headers = dict(record.headers)
    stamp = parse_stamp(headers["gate"])
    assert (stamp.verdict, stamp.reason, stamp.first) == ("rejected", "duplicate", "gate.requests.pay-0@0")
    assert headers["gate-error"] == b"the first one with this id is gate.requests.pay-0@0"
    assert "retry-after" not in headers


def test_in_one_batch_too_and_over_partitions():
    shop = Shop()
    assert shop.take(b"a", b"a", b"b", b"a") == [ADMITTED, DUPLICATE, ADMITTED, DUPLICATE]
    assert shop.take(b"b", partition=1) == [DUPLICATE]


def test_after_its_time_the_same_id_is_another_one():
    shop = Shop(once="10s")
    assert shop.take(b"a") == [ADMITTED]
    assert shop.take(b"a", at=NOW + 10 * SECOND - MS) == [DUPLICATE]
    assert shop.take(b"a", at=NOW + 10 * SECOND) == [ADMITTED]


def test_tenants_have_ids_of_their_own():
    shop = Shop()
    assert shop.take(b"a", gate_tenant=b"acme") == [ADMITTED]
    assert shop.take(b"a", gate_tenant=b"beta") == [ADMITTED]
    assert shop.take(b"a", gate_tenant=b"acme") == [DUPLICATE]


@pytest.mark.parametrize(("by", "header"), [("key", None), ("order-id", "order-id")])
def test_by_what_requests_are_told_apart_is_the_policys(by, header):
    shop = Shop(once=f"{{for: 1h, by: {by}}}")
    name = [(header, b"1")] if header else [("x", b"y")]
    assert shop.take(name, name) == [ADMITTED, DUPLICATE]


def test_a_first_one_that_was_rejected_does_not_count():
    shop = Shop(burst=1, more=", overflow: reject")
    assert shop.take(b"a") == [ADMITTED]
    refused = (Verdict.REJECTED, Reason.RATE)
    assert shop.take(b"b", b"b", b"b") == [refused] * 3  # they share its fate
    assert shop.take(b"b", at=NOW + SECOND) == [ADMITTED]


def test_what_asks_for_something_else_is_looked_at_when_the_fate_of_the_first_is_known():
    shop = Shop(burst=5, more=", overflow: reject")
    dear, cheap = [("gate-id", b"a"), ("gate-cost", b"9")], [("gate-id", b"a")]
    assert shop.take(dear, cheap, b"b") == [(Verdict.REJECTED, Reason.NEVER)]
    assert shop.state.next_wake() == 0
    shop.buffer.held.clear()
    (place,) = shop.buffer.waiting
    records, end = shop.buffer.take(place, 10)
    assert shop.decide(NOW, [(0, records, end)]) == [ADMITTED, ADMITTED]


def test_one_that_waited_and_is_rejected_does_not_count_any_more():
    shop = Shop(burst=1)
    soon = b"%d" % (NOW // MS + 1_500)
    assert shop.take(b"z") == [ADMITTED]
    assert shop.take(b"a", gate_deadline=soon) == [(Verdict.DELAYED, Reason.RATE)]
    assert shop.take(b"a") == [DUPLICATE]
    shop.restart()
    shop.served.engine.pause(NOW, NOW + 60 * SECOND)
    assert shop.decide(NOW + 2 * SECOND, []) == []
    assert [place.topic for place in shop.out] == ["gate.rejected.pay"]
    (again,) = shop.take(b"a", at=NOW + 3 * SECOND)
    assert again[0] is Verdict.DELAYED


def test_retries_are_not_asked():
    shop = Shop()
    assert shop.take(b"a") == [ADMITTED]
    assert shop.take(b"a", partition=0, retried=True) == [ADMITTED]


def test_what_is_read_again_repeats_nobody():
    """Without transactions, a request that was decided and not committed."""
    shop = Shop()
    assert shop.take(b"a", b"b") == [ADMITTED] * 2
    shop.restart()
    shop.ends.clear()
    assert shop.take(b"a", b"b") == [ADMITTED] * 2


def test_held_ones_are_told_apart_when_they_go():
    shop = Shop(burst=1, more=", overflow: hold")
    shop.take(b"a", b"b", b"b")
    for second, expected in ((1, [ADMITTED, DUPLICATE]),):
        shop.buffer.held.clear()
        (place,) = shop.buffer.waiting
        records, end = shop.buffer.take(place, 10)
        assert shop.decide(NOW + second * SECOND, [(0, records, end)]) == expected


def test_a_shadow_refuses_nobody():
    shop = Shop(more=", shadow: true")
    assert shop.take(b"a", b"a") == [ADMITTED] * 2


def test_without_the_rule_what_was_kept_is_deleted():
    shop = Shop()
    shop.take(b"a")
    assert any(key.startswith("seen/") for key in shop.kept)
    list(shop.state.follow_policy(parse_policy("services: {pay: {requests_per_second: 1}}"), NOW))
    shop.decide(NOW, [])
    assert not any(key.startswith("seen/") for key in shop.kept)


def test_pauses_and_schedules_keep_ids():
    shop = Shop()
    shop.served.engine.pause(NOW, NOW + SECOND)
    start = b"%d" % (NOW // MS + 60_000)
    assert shop.take(b"a")[0][0] is Verdict.DELAYED
    assert shop.take(b"b", gate_start=start) == [(Verdict.DELAYED, Reason.SCHEDULED)]
    assert shop.take(b"a", b"b") == [DUPLICATE] * 2
