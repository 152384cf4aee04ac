"""Recent ids against a plain dictionary."""

import random
import tracemalloc
from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.model import MS, SECOND
from gate.admission.recent_ids import RecentIds, pack
from gate.admission.state import SeenRecord, decode
from gate.policy import Deduplicate

START = 1_764_000_000 * SECOND


def made(time=3600, at_most=1_000_000):
    return RecentIds("svc", 7, Deduplicate(time * SECOND, at_most))


def keep(recent, now, ids, tenant="", first=0):
    recent.keep(now, recent.digests([(tenant, ids)]), array("Q", [pack((1, first + n)) for n in range(len(ids))]))


def found(recent, now, ids, tenant=""):
    return recent.find(now, recent.digests([(tenant, ids)]))


def reopened(recent, state, rules=None):
    for key, value in recent.drain_changes().items():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    again = RecentIds("svc", 7, rules or recent.rules)
    for _ in again.restore((n, decode(k, state[k], SeenRecord)) for n, k in sorted((int(k[9:]), k) for k in state)):
        pass
    return again


def test_the_second_one_is_told_the_first():
    recent = made()
    assert found(recent, START, [b"a"]) == {}
    keep(recent, START, [b"a", b"b"], first=40)
    assert found(recent, START + SECOND, [b"c", b"b", None, b"a"]) == {1: (1, 41), 3: (1, 40)}
    assert recent.digests([("", [None, b""])]) == bytes(32)


def test_tenants_are_told_apart():
    recent = made()
    keep(recent, START, [b"a"], "acme")
    assert found(recent, START, [b"a"], "acme") == {0: (1, 0)}
    assert found(recent, START, [b"a"]) == found(recent, START, [b"a"], "beta") == {}


def test_after_its_time_an_id_is_new():
    recent = made(time=10)
    keep(recent, START, [b"a"])
    keep(recent, START + 6 * SECOND, [b"b"], first=5)
    assert found(recent, START + 10 * SECOND - MS, [b"a", b"b"]) == {0: (1, 0), 1: (1, 5)}
    assert found(recent, START + 10 * SECOND, [b"a", b"b"]) == {1: (1, 5)}
    keep(recent, START + 10 * SECOND, [b"a"], first=9)
    assert found(recent, START + 12 * SECOND, [b"a"]) == {0: (1, 9)}


def test_a_first_one_that_was_rejected_does_not_count():
    recent, state = made(), {}
    keep(recent, START, [b"a", b"b"])
    digest = recent.digests([("", [b"a"])])
    assert not recent.forget(digest, (1, 7))
    assert recent.forget(digest, (1, 0))
    assert found(recent, START, [b"a", b"b"]) == {1: (1, 1)}
    keep(recent, START, [b"a"], first=30)
    assert found(reopened(recent, state), START, [b"a", b"b"]) == {0: (1, 30), 1: (1, 1)}


def test_beyond_the_number_the_oldest_go_and_that_is_counted():
    recent, state = made(at_most=1_000), {}
    for batch in range(40):
        keep(recent, START + batch * MS, [b"%d" % n for n in range(100 * batch, 100 * batch + 100)], first=100 * batch)
        assert len(recent) <= 1_000
    assert recent.forgotten == 3_000
    ids = [b"%d" % n for n in range(4_000)]
    assert sorted(found(recent, START + SECOND, ids)) == list(range(3_000, 4_000))
    again = reopened(recent, state)
    assert sorted(found(again, START + SECOND, ids)) == list(range(3_000, 4_000))
    assert again.forgotten == 0
    assert sum(len(decode(k, v, SeenRecord).digests) for k, v in state.items()) // 16 < 1_300


def test_other_rules_count_at_once():
    recent, state = made(), {}
    keep(recent, START, [b"%d" % n for n in range(1_000)])
    recent.follow(Deduplicate(3600 * SECOND, 10), 7)
    assert len(recent) == 10
    recent = reopened(recent, state)
    recent.follow(None, 7)
    recent = reopened(recent, state, Deduplicate(3600 * SECOND))
    assert (len(recent), state) == (0, {})
    assert found(recent, START, [b"999"]) == {}


def test_each_of_as_many_as_may_come_takes_some_bytes():
    recent, rng = made(at_most=30_000), random.Random(3)
    ids = [[b"%032x" % rng.getrandbits(128) for _ in range(1_000)] for _ in range(30)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number, batch in enumerate(ids):
        keep(recent, START + number * MS, batch)
        recent.drain_changes()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 30_000 < 60


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_it_knows_what_a_dictionary_knows(seed):
    rng = random.Random(seed)
    time, most = rng.choice([5, 60, 10_000]), rng.choice([3, 50, 100_000])
    recent, state, model, now, offset = made(time, most), {}, [], START, 0
    for _ in range(rng.randrange(1, 50)):
        now += rng.choice([0, 1, 900, 20_000]) * MS
        tenant = rng.choice(["", "t"])
        names = [b"%d" % rng.randrange(rng.choice([5, 2_000])) for _ in range(rng.choice([1, 3, 400]))]
        names = list(dict.fromkeys(names))
        alive = {key: offset for key, at, offset in model[max(0, len(model) - most) :] if at + time * SECOND > now}
        expected = {n: (1, alive[tenant, name]) for n, name in enumerate(names) if (tenant, name) in alive}
        assert found(recent, now, names, tenant) == expected
        new = [name for name in names if (tenant, name) not in alive]
        keep(recent, now, new, tenant, offset)
        model += [((tenant, name), now, offset + n) for n, name in enumerate(new)]
        offset += len(new)
        if rng.random() < 0.3:
            recent = reopened(recent, state)


def test_none_is_missed_while_the_index_grows_and_shrinks():
    recent, end = made(time=60), 0
    ids = [b"%d" % n for n in range(70_000)]
    for first in range(0, len(ids), 1_000):  # larger tables take several batches to take over
        part = ids[first : first + 1_000]
        assert found(recent, START, part) == {}
        keep(recent, START, part, first=first)
        end = first + len(part)
        again = ids[:end:97]
        assert found(recent, START, again) == {n: (1, 97 * n) for n in range(len(again))}
    for batch in range(12):  # hardly anything of that counts any more
        part = [b"later-%d-%d" % (batch, n) for n in range(10)]
        keep(recent, START + 61 * SECOND, part, first=end + 10 * batch)
    assert found(recent, START + 61 * SECOND, [*ids[::500], b"later-0-3", b"later-11-9"]) == {
        140: (1, end + 3), 141: (1, end + 119)
    }  # fmt: skip


def test_entries_are_counted_anew_where_their_numbers_end(monkeypatch):
    monkeypatch.setattr("gate.admission.recent_ids.LAST", 2_500)
    recent, state = made(time=10), {}
    for second in range(40):
        now = START + second * SECOND
        keep(recent, now, [b"%d" % n for n in range(100 * second, 100 * second + 100)], first=100 * second)
        alive = range(max(0, 100 * (second - 9)), 100 * second + 100)
        wanted = {n: (1, n) for n in alive}
        assert found(recent, now, [b"%d" % n for n in range(100 * second + 100)]) == wanted
    assert len(recent) == len(reopened(recent, state)) == 1_000
