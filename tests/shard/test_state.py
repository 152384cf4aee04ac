"""What a shard's state does with a service that holds its requests back."""

import pytest

from gate.admission.model import Binding, Pull, Reason, Verdict
from gate.policy import parse_policy
from gate.protocol.control import PauseUntil, WriteFormat
from gate.protocol.topics import Names
from gate.shard.buffer import FetchBuffer, MemoryPool
from gate.shard.changelog_records import FORMAT, Meta, read_meta
from gate.shard.owner_views import Lag, Received
from gate.shard.records import Fetched, Partition
from gate.shard.state import HOLD_ROOM, PULLS, ShardState
from gate.units import MS
from tests.sim.log import Stored

SECOND = 1_000 * MS
NOW = 1_764_000_000 * SECOND
POLICY = "services: {slow: {requests_per_second: 1, burst_size: 1, overflow: hold}}"
FIRST, SECOND_ONE = Partition("gate.requests.slow", 0), Partition("gate.requests.slow", 1)


def test_what_is_held_is_looked_at_sparingly_and_each_partition_has_its_turn():
    state = ShardState(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, NOW)
    served = state.serve("slow", NOW)
    buffer = FetchBuffer(1 << 20, MemoryPool(1 << 20, 1), lambda: None)
    for partition, count in ((FIRST, 1000), (SECOND_ONE, 3)):
        buffer.put(partition, Fetched([Stored(i, 1, b"k", b"v", ()) for i in range(count)], count, 10 * count))

    went, looks, ends = [], [], {}
    for second in range(8):
        buffer.held.clear()
        taken = []
        for partition in sorted(buffer.waiting):
            taken.append((partition.number, *buffer.take(partition, served.room or 4_000)))
        looks.append(sum(len(records) for _, records, _ in taken))
        turn = state.decide(served, NOW + second * SECOND, taken, buffer)
        held = min(decision.first for decision in turn.step.decisions if decision.verdict.name == "HELD")
        assert held == sum(len(piece.records) for piece in turn.pieces)
        went += [piece.partition for piece in turn.pieces for _ in piece.records]
        ends |= {piece.partition: piece.end for piece in turn.pieces}

    assert went == [1, 0, 1, 0, 1, 0, 0, 0], "of which fewer came went first; then each in turn"
    assert looks[0] == 1003
    assert max(looks[1:]) <= 2 * HOLD_ROOM
    assert ends == {0: 5, 1: 3}


def look(state, served, buffer, now):
    """Let the shard look once at what waits, as the shard does."""
    buffer.held.clear()
    taken = [(p.number, *part) for p in sorted(buffer.waiting) if (part := buffer.take(p, served.room or 4_000))]
    return state.decide(served, now, taken, buffer)


@pytest.mark.parametrize("restored", [False, True])
def test_what_is_held_counts_once_however_often_it_is_looked_at(restored):
    stored = {}
    state = ShardState(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, NOW)
    served = state.serve("slow", NOW)
    buffer = FetchBuffer(1 << 20, MemoryPool(1 << 20, 1), lambda: None)
    for partition, count in ((FIRST, 20), (SECOND_ONE, 3)):
        buffer.put(partition, Fetched([Stored(i, 1, b"k", b"v", ()) for i in range(count)], count, 10 * count))
    for second in range(8):
        now = NOW + second * SECOND
        turn = look(state, served, buffer, now)
        stored |= {key: value for key, value in state.changes([turn]).items() if value is not None}
        usage = served.engine.usage(now)
        assert usage.totals_by_verdict() == {"admitted": 1, "delayed": 0, "rejected": 0, "held": 22}
        assert sum(t.requests for t in usage.totals if t.verdict == "admitted") == second + 1
        assert (usage.backlog, usage.held) == (22 - second, 22 - second)
        assert usage.eta_seconds == 22 - second
        assert usage.binding == Binding(Reason.RATE, "slow.rate")
        assert usage.offered_per_second <= 2.3
        if restored:
            state = ShardState(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, now)
            list(state.restore(stored, now))
            served = state.serve("slow", now)
    for second in range(8, 30):
        look(state, served, buffer, NOW + second * SECOND)
    usage = served.engine.usage(NOW + 30 * SECOND)
    assert (usage.backlog, usage.held, usage.binding) == (0, 0, usage.binding)
    assert {(t.verdict.value, t.pulled): t.requests for t in usage.totals} == {
        ("admitted", False): 1, ("admitted", True): 22, ("held", False): 22,
    }  # fmt: skip


def test_what_is_held_and_was_not_looked_at_waits_too():
    state = ShardState(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, NOW)
    served = state.serve("slow", NOW)
    buffer = FetchBuffer(1 << 20, MemoryPool(1 << 20, 1), lambda: None)
    buffer.put(FIRST, Fetched([Stored(i, 1, b"k", b"v", ()) for i in range(3)], 3, 30))
    look(state, served, buffer, NOW)
    served.engine.holding.behind = 900
    usage = served.engine.usage(NOW)
    assert (usage.backlog, usage.eta_seconds) == (900, 900.0)


def test_as_many_parked_requests_may_go_at_first_as_ever_and_fewer_of_large_ones():
    """Few at first is capacity lost at each take-over: meanwhile the bucket runs over."""
    served = ShardState(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, NOW).serve("slow", NOW)
    assert served.pulls == PULLS
    pull = Pull(0, 0, 3, Verdict.ADMITTED)
    served.weigh([(pull, [Stored(i, 1, b"k", bytes(1 << 20), ()) for i in range(3)])])
    assert served.pulls == 1
    served.weigh([(pull, [Stored(i, 1, b"k", b"v", ()) for i in range(3)])])
    assert served.pulls == PULLS


class Commands:
    def __init__(self, *commands):
        self._commands = commands
        self.lags = {}

    def since(self, offset):
        return [received for received in self._commands if received.offset >= offset]


def written(state, now):
    """Return in which versions a shard writes all that its engine and its positions have to say."""
    served = state.serve("slow", now)
    buffer = FetchBuffer(1 << 20, MemoryPool(1 << 20, 1), lambda: None)
    buffer.put(FIRST, Fetched([Stored(i, 1, b"k", b"v", ()) for i in range(5)], 5, 50))
    turn = look(state, served, buffer, now)
    return {value[0] for value in {**state.changes([turn]), **state.noted([turn])}.values()}


def test_state_is_written_in_the_format_that_it_is_in_until_an_operator_says_otherwise():
    state = ShardState(Names(), parse_policy(POLICY), Meta(1, 16), {}, NOW)
    assert written(state, NOW) == {1}
    state.apply(Commands(Received(4, "gate/format", WriteFormat(2), by_operator=False)), NOW)
    assert not state.unwritten
    state.apply(Commands(Received(5, "gate/format", WriteFormat(2))), NOW)
    assert state.unwritten
    assert state.next_wake() == 0  # a batch is written although nothing is decided
    assert read_meta(state.meta(NOW), 16) == Meta(2, 16, at=NOW, control=6)
    assert not state.unwritten
    assert written(state, NOW + SECOND) == {2}


@pytest.mark.parametrize("asked", [1, FORMAT + 1])
def test_an_older_format_is_not_gone_back_to_and_an_unknown_one_is_not_written(asked):
    state = ShardState(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, NOW)
    state.apply(Commands(Received(5, "gate/format", WriteFormat(asked))), NOW)
    assert not state.unwritten
    assert read_meta(state.meta(NOW), 16).format == FORMAT


def test_a_pause_that_came_before_its_service_was_known_holds():
    state = ShardState(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, NOW)
    until = (NOW + 300 * SECOND) // MS
    commands = Commands(Received(4, "slow", PauseUntil(until)), Received(5, "other", PauseUntil(until)))
    state.apply(commands, NOW)
    assert read_meta(state.meta(NOW), 16).control == 6
    engine = state.serve("slow", NOW).engine
    state.apply(commands, NOW)
    assert engine.usage(NOW).paused_until == NOW + 300 * SECOND

    engine.resume(NOW)  # as if by a later one: what is known is not carried out again
    state.apply(commands, NOW)
    assert engine.usage(NOW).paused_until is None


def test_a_service_that_was_known_takes_no_command_twice():
    state = ShardState(Names(), parse_policy(POLICY), Meta(FORMAT, 16), {}, NOW)
    commands = Commands(Received(4, "slow", PauseUntil((NOW + 300 * SECOND) // MS)))
    served = state.serve("slow", NOW)
    state.apply(commands, NOW)
    served.engine.resume(NOW)
    buffer = FetchBuffer(1 << 20, MemoryPool(1 << 20, 1), lambda: None)
    buffer.put(FIRST, Fetched([Stored(0, 1, b"k", b"v", ())], 1, 10))
    stored = {
        key: value for key, value in state.changes([look(state, served, buffer, NOW)]).items() if value is not None
    }
    successor = ShardState(Names(), parse_policy(POLICY), read_meta(state.meta(NOW), 16), {}, NOW)
    list(successor.restore(stored, NOW))
    successor.apply(commands, NOW)
    assert successor.serve("slow", NOW).engine.usage(NOW).paused_until is None


def test_what_workers_lagged_for_an_earlier_owner_says_nothing_of_what_this_one_has_admitted():
    """Each take-over counts anew: an earlier count, taken off, would let more go than may be in flight."""
    policy = parse_policy("services: {slow: {max_in_flight: 4, worker_group: w, overflow: reject}}")
    state = ShardState(Names(), policy, Meta(FORMAT, 16), {}, NOW)
    served, told, earlier = state.serve("slow", NOW), Commands(), ShardState(Names(), policy, Meta(FORMAT, 16), {}, NOW)
    buffer = FetchBuffer(1 << 20, MemoryPool(1 << 20, 1), lambda: None)

    def admitted(offset):
        buffer.put(FIRST, Fetched([Stored(offset + i, 1, b"k", b"v", ()) for i in range(9)], offset + 9, 90))
        decisions = look(state, served, buffer, NOW).step.decisions
        return sum(decision.count for decision in decisions if decision.verdict is Verdict.ADMITTED)

    told.lags["slow"] = Lag(0, 1_000, earlier.count)
    state.apply(told, NOW)
    assert not state.measured
    assert admitted(0) == 0, "until it is measured, workers have all that they may have"
    told.lags["slow"] = Lag(3, 0, state.count)
    state.apply(told, NOW)
    assert state.measured == {"slow"}
    assert admitted(9) == 1
