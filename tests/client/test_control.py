"""Operators' commands from Python, on a real gate."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from gate.client import ArgumentError, GateControl, GateError, NotConnectedError, SyncGateControl, UnknownServiceError
from gate.protocol import control
from tests.system.gates import read_count, until


def usage_of(gated, service):
    return next(one for one in json.loads(gated.process.get("/v1/usage"))["services"] if one["service"] == service)


async def commands_about(gated, service):
    records = await gated.log.read(gated.names.control)
    return [record for record in records if control.decode(record.value).service == service]


async def test_a_service_is_paused_and_resumed_at_the_gate(gated):
    service = await gated.service()
    await gated.log.write(gated.names.requests(service), b"so that the gate knows it and tells its usage")
    await read_count(gated.bootstrap, [gated.names.admitted(service)], 1)
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix, who="ann@ops") as gate:
        paused = await gate.pause(service, for_=3600, reason="the bank is down")
        await asyncio.to_thread(
            until, lambda: service in gated.process.get("/v1/usage") and usage_of(gated, service)["paused_until_ms"]
        )
        resumed = await gate.resume(service)
        await asyncio.to_thread(until, lambda: usage_of(gated, service)["paused_until_ms"] is None)
    records = await commands_about(gated, service)
    assert [record.key for record in records] == [paused.encode(), resumed.encode()]
    first, second = ({name: value.decode() for name, value in record.headers} for record in records)
    assert first == {"gate-by": "operator", "gate-who": "ann@ops", "gate-reason": "the bank is down"}
    assert second == {"gate-by": "operator", "gate-who": "ann@ops"}
    assert paused != resumed


async def test_ends_are_spelt_in_three_ways_and_without_one_it_lasts(gated):
    service = await gated.service()
    until_then = datetime(2126, 1, 31, 18, 30, tzinfo=UTC)

    def script():
        with SyncGateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
            gate.pause(service, until=until_then, tenant="Müller")
            gate.pause(service, for_=timedelta(minutes=15), tenant="acme")
            gate.pause(service, tenant="b")
            gate.resume(service, tenant="b")

    before = time.time()
    await asyncio.to_thread(script)
    records = await commands_about(gated, service)
    dated, timed, *others = [control.decode(record.value) for record in records]
    assert dated == control.PauseUntil(int(until_then.timestamp() * 1000), "Müller", service)
    assert before + 900 - 0.001 <= timed.until / 1000 <= time.time() + 900
    assert others == [control.PauseUntil(control.FOREVER_MS, "b", service), control.Resume("b", service)]


async def test_what_makes_no_sense_is_refused_and_says_what_would(gated):
    service = await gated.service()
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
        with pytest.raises(UnknownServiceError, match=r"there is no service 'payment'; known are .*") as unknown:
            await gate.pause("payment")
        assert service in str(unknown.value)
        for wrong in (
            {"for_": 0},
            {"for_": -1.0},
            {"for_": float("nan")},
            {"until": datetime(2020, 1, 1, tzinfo=UTC)},
            {"until": datetime(2120, 1, 1)},  # noqa: DTZ001 - that is what is wrong with it
            {"until": datetime(2120, 1, 1, tzinfo=UTC), "for_": 1},
            {"tenant": "x" * 300},
        ):
            with pytest.raises(ArgumentError) as refused:
                await gate.pause(service, **wrong)
            assert refused.value.hint
    assert not await commands_about(gated, service)


async def test_outside_of_its_block_and_where_no_gate_ran_it_says_so(gated):
    with pytest.raises(NotConnectedError, match="not connected"):
        await GateControl(gated.bootstrap).resume("payments")
    with pytest.raises(NotConnectedError, match="not connected"):
        SyncGateControl(gated.bootstrap).resume("payments")
    with pytest.raises(GateError, match="no gate has run with this prefix"):
        async with GateControl(gated.bootstrap, prefix="nobody-here"):
            pass
