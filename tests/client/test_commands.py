"""Commands on what waits, on a real gate: each request has one end, and all is told."""

import asyncio
import time
import uuid
from collections import Counter
from datetime import UTC, datetime

import pytest

from gate.client import ArgumentError, CommandRefusedError, Filter, GateControl, SyncGateControl, UnknownServiceError
from gate.protocol import control
from gate.protocol.answers import AnswerState, decode_answer, decode_audit
from gate.protocol.headers import parse_stamp
from tests.system.gates import read_count


async def parked(gated, *groups, kind="idle", partitions=2):
    """Return a service of which one request was admitted, and these wait: (count, headers, fields of the record)."""
    service = await gated.service(kind, partitions)
    await gated.log.write(gated.names.requests(service), b"first")
    await read_count(gated.bootstrap, [gated.names.admitted(service)], 1)
    total = 0
    for number, (count, headers, record) in enumerate(groups):
        values = [b"%d-%d" % (number, index) for index in range(count)]
        await gated.log.write(gated.names.requests(service), *values, headers=headers, **record)
        total += count  # one after the other: which partition is read first is nobody's promise
        await read_count(gated.bootstrap, [gated.names.delayed(service)], total)
    return service


async def rejected(gated, service, partitions=2):
    """Return what was rejected: the reasons by value."""
    found = {}
    for partition in range(partitions):
        for record in await gated.log.read(gated.names.rejected(service), partition):
            headers = dict(record.headers)
            found[record.value] = parse_stamp(headers["gate"]).reason
    return found


async def answers(gated, command):
    records = await gated.log.read(gated.names.answers)
    return [decode_answer(record.value) for record in records if record.key == command.encode()]


async def audit(gated, service):
    records = await gated.log.read(gated.names.audit)
    return [decode_audit(record.value) for record in records if record.key == service.encode()]


def tenant(name):
    return [("gate-tenant", name.encode())]


async def test_what_is_cancelled_is_rejected_once_and_all_is_told(gated):
    service = await parked(
        gated, (700, tenant("acme"), {}), (30, tenant("beta"), {}), (600, tenant("acme"), {"partition": 1})
    )
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix, who="ann@ops") as gate:
        counted = await gate.cancel(service, Filter(tenant="acme"), dry_run=True)
        assert (counted.state, counted.of, counted.done) == (AnswerState.DONE, 1300, 0)
        assert await rejected(gated, service) == {}
        told = []
        done = await gate.cancel(service, Filter(tenant="acme"), reason="they have left us", on_answer=told.append)
    assert (done.state, done.of, done.done, done.gone) == (AnswerState.DONE, 1300, 1300, 0)
    assert told[0].state is AnswerState.TAKEN
    assert told[-1] == done == (await answers(gated, done.command))[-1]
    assert Counter((await rejected(gated, service)).values()) == {"cancelled": 1300}
    assert not [value for value in await rejected(gated, service) if value.startswith(b"1-")]
    (noted,) = await audit(gated, service)
    assert (noted.what, noted.who, noted.claimed, noted.reason) == ("cancel", "ann@ops", True, "they have left us")
    assert (noted.said, noted.result, noted.command) == ({"selection": {"tenant": "acme"}}, "done", done.command)
    assert (noted.before, noted.after) == (
        {"waiting": 1330}, {"done": 1300, "of": 1300, "gone": 0, "waiting": 30}
    )  # fmt: skip


async def test_filters_that_only_the_records_answer(gated):
    ids = [("gate-id", b"order-7")]
    late = [("gate-deadline", b"%d" % (time.time_ns() // 1_000_000 + 400 * 86_400_000))]
    service = await parked(
        gated, (20, [], {"key": b"a"}), (5, [], {"key": b"b"}), (1, ids, {}), (4, late, {}), (10, [], {"partition": 1})
    )
    (first,) = [r for r in await gated.log.read(gated.names.delayed(service)) if r.value == b"0-19"]
    stamp = parse_stamp(dict(first.headers)["gate"]).id
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:

        async def count(which, reason="", dry_run=True):
            return (await gate.cancel(service, which, reason=reason, dry_run=dry_run)).of

        assert await count(Filter(key="b")) == 5
        assert await count(Filter(producer_id="order-7")) == 1
        assert await count(Filter(id=stamp)) == 1
        assert await count(Filter(deadline_before=datetime(2126, 1, 1, tzinfo=UTC))) == 4
        assert await count(Filter(older_than=3600)) == 0
        assert await count(Filter(everything=True)) == 40
        assert await count(Filter(everything=True, keep_newest=39)) == 1
        assert await count(Filter(key="a"), "midst of a run", dry_run=False) == 20
        assert await count(Filter(id=stamp)) == 0
        assert await count(Filter(producer_id="order-7"), "wrong", dry_run=False) == 1
        assert await count(Filter(everything=True, keep_newest=10), "old", dry_run=False) == 9
    kept = {b"4-%d" % index for index in range(10)}
    ends = await rejected(gated, service)
    assert len(ends) == 30
    assert not kept & ends.keys()


async def test_a_command_is_done_once_however_often_it_is_sent(gated):
    service = await parked(gated, (10, tenant("acme"), {}))
    known = uuid.uuid4().hex

    def script():
        with SyncGateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
            first = gate.cancel(service, Filter(tenant="acme"), reason="once", command_id=known)
            asyncio.run(gated.log.write(gated.names.requests(service), b"later", headers=tenant("acme")))
            asyncio.run(read_count(gated.bootstrap, [gated.names.delayed(service)], 11))
            return first, gate.cancel(service, Filter(tenant="acme"), reason="once", command_id=known)

    first, again = await asyncio.to_thread(script)
    assert (first.done, again.done, again.state) == (10, 10, AnswerState.DONE)
    assert len(await rejected(gated, service)) == 10
    assert len(await audit(gated, service)) == 1


async def test_what_can_not_be_is_refused_and_said(gated):
    service = await parked(gated, (3, tenant("acme"), {}))
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
        with pytest.raises(UnknownServiceError, match=r"there is no service 'nosuch'; known are .*"):
            await gate.cancel("nosuch", Filter(everything=True), reason="x")
        with pytest.raises(CommandRefusedError, match=f"nothing that waits for {service} fits the filter"):
            await gate.cancel(service, Filter(tenant="nobody"), reason="x")
        with pytest.raises(CommandRefusedError, match="there is no lane 'fast'; there are default"):
            await gate.cancel(service, Filter(lane="fast"), reason="x")
        with pytest.raises(CommandRefusedError, match="no command 'abc' about"):
            await gate.abort(service, "abc")
        with pytest.raises(ArgumentError, match="no reason is given"):
            await gate.cancel(service, Filter(everything=True))
        with pytest.raises(ArgumentError, match="nothing says which requests"):
            await gate.cancel(service, Filter(keep_newest=1), reason="x")
    results = [(noted.what, noted.result) for noted in await audit(gated, service)]
    assert results == [("cancel", "failed"), ("cancel", "failed"), ("abort", "failed")]
    assert await rejected(gated, service) == {}


async def test_pauses_are_in_the_audit_with_what_was_before(gated):
    service = await parked(gated, (1, [], {}))
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix, who="bob@ops") as gate:
        paused = await gate.pause(service, reason="the bank is down")
        await gate.resume(service)
        await gate.cancel(service, Filter(everything=True), reason="so that all before is written")
    first, second, third = await audit(gated, service)
    assert (first.what, first.command, first.who, first.reason) == ("pause", paused, "bob@ops", "the bank is down")
    assert (first.said, first.before, first.after) == (
        {"until_ms": None}, {"paused_until_ms": 0}, {"paused_until_ms": None}
    )  # fmt: skip
    assert (second.what, second.before, second.after) == (
        "resume", {"paused_until_ms": None}, {"paused_until_ms": 0}
    )  # fmt: skip
    assert third.what == "cancel"


def test_what_a_command_says_is_read_back():
    selection = control.Selection(id="a-0@1", key="k", tenant="", older_than_ms=5, keep_newest=2)
    command = control.Cancel("pay", selection, dry_run=True)
    assert control.decode(control.encode(command)) == command
    with pytest.raises(ValueError, match="unknown field"):
        control.decode(b'{"command":"cancel","service":"pay","selection":{"tenants":"a"}}')


async def test_what_is_moved_waits_in_the_other_lane(gated):
    service = await parked(gated, (300, tenant("acme"), {}), (20, tenant("beta"), {}), kind="lanes")
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
        with pytest.raises(CommandRefusedError, match="there is no lane 'fast'; there are high, low"):
            await gate.move(service, Filter(tenant="acme"), "fast")
        moved = await gate.move(service, Filter(tenant="acme"), "high")
        assert (moved.state, moved.of, moved.done) == (AnswerState.DONE, 300, 300)
        with pytest.raises(CommandRefusedError, match="nothing that waits"):
            await gate.move(service, Filter(tenant="acme"), "high")
        assert (await gate.cancel(service, Filter(lane="high"), dry_run=True)).of == 300
        assert (await gate.cancel(service, Filter(lane="low"), dry_run=True)).of == 20
    moves = [(noted.what, noted.result, noted.said["lane"]) for noted in await audit(gated, service)]
    assert moves == [("move", "failed", "fast"), ("move", "done", "high"), ("move", "failed", "high")]
