"""Limits set while a gate runs: what waits heeds them, who looks sees them, and nobody's change is lost."""

import asyncio
import json
import re

import pytest

from gate.cli import main
from gate.client import ArgumentError, CommandRefusedError, GateControl, SyncGateControl, UnknownServiceError
from gate.protocol import control
from gate.protocol.answers import decode_audit
from gate.protocol.headers import parse_stamp
from gate.protocol.policies import LiveLimit
from tests.client.test_commands import parked, rejected, tenant
from tests.system.gates import read_count, until


async def audit(gated, service):
    records = [decode_audit(record.value) for record in await gated.log.read(gated.names.audit)]
    return [record for record in records if record.service == service]


def explained(gated, service, capsys):
    """Return where each field of a service comes from."""
    place = ["--bootstrap", gated.bootstrap, "--prefix", gated.names.prefix]
    assert main(["policy", "show", str(gated.process.config), service, "--live", "--json", *place]) == 0
    return json.loads(capsys.readouterr().out)["fields"]


async def admitted(gated, service, count):
    await read_count(gated.bootstrap, [gated.names.admitted(service)], count)
    records = [record for number in (0, 1) for record in await gated.log.read(gated.names.admitted(service), number)]
    return {record.value: parse_stamp(dict(record.headers)["gate"]) for record in records}


async def test_what_waits_goes_by_the_limit_that_is_set_and_by_the_file_again_when_it_is_cleared(gated, capsys):
    service = await parked(gated, (50, [], {}))
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix, who="ann@ops") as gate:
        done = await gate.set_limit(
            service, requests_per_second=1000, burst_size=1000, window_limit=10_000, reason="campaign"
        )
        assert (done.state, done.version) == ("done", 1)
        stamps = await admitted(gated, service, 51)
        assert len({stamp.policy for stamp in stamps.values()}) == 2
        found = await gate.limits(service)
        assert (found.version, found.limit.burst_size) == (1, 1000)
        shown = await asyncio.to_thread(explained, gated, service, capsys)
        assert shown["burst_size"] == {"value": 1000, "source": "live", "line": None}
        assert shown["max_delay"]["source"] == 'glob "idle-*"'
        assert (found.own.who, found.own.reason, found.own.command) == ("ann@ops", "campaign", done.command)
        assert (await gate.clear_limit(service, reason="over", if_version=1)).version == 2
        await gated.log.write(gated.names.requests(service), b"behind")
        await read_count(gated.bootstrap, [gated.names.delayed(service)], 51)
        assert ((await gate.limits(service)).limit, (await gate.limits(service)).version) == (None, 2)
    first, last = await audit(gated, service)
    assert (first.what, first.who, first.reason, first.result) == ("set-limit", "ann@ops", "campaign", "done")
    assert (first.before, first.after["version"], last.before) == (
        {}, 1, {"requests_per_second": "1000", "burst_size": 1000, "window_limit": 10_000}
    )  # fmt: skip
    assert (last.what, last.after) == ("clear-limit", {"version": 2})


async def test_a_blocked_tenant_is_refused_and_what_is_parked_of_it_stays(gated):
    service = await parked(gated, (5, tenant("acme"), {}))
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
        await gate.set_limit(service, requests_per_second=0, tenant="acme", reason="not paid")
        await gated.log.write(gated.names.requests(service), b"late", headers=tenant("acme"))
        await read_count(gated.bootstrap, [gated.names.rejected(service)], 1)
        assert await rejected(gated, service) == {b"late": "blocked"}
        await gate.set_limit(service, requests_per_second=1000, burst_size=100, window_limit=1000)
        await gated.log.write(gated.names.requests(service), b"other", headers=tenant("beta"))
        assert (await admitted(gated, service, 2)).keys() == {b"first", b"other"}
        await gate.clear_limit(service, tenant="acme")
        assert len(await admitted(gated, service, 7)) == 7


async def test_services_of_a_group_go_together_by_what_is_set_for_it(gated, capsys):
    first = await parked(gated, (3, [], {}), kind="shared")
    second = await gated.service("shared")
    await gated.log.write(gated.names.requests(second), b"a", b"b")
    await read_count(gated.bootstrap, [gated.names.delayed(second)], 2)
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix, who="ann@ops") as gate:
        done = await gate.set_limit(group="bank", requests_per_second=1000, burst_size=1000, window_limit=10_000)
        assert (done.state, done.version, done.service) == ("done", 1, "group:bank")
        assert len(await admitted(gated, first, 4)) == 4
        assert len(await admitted(gated, second, 2)) == 2
        with pytest.raises(CommandRefusedError, match="group bank are at version 1, not 0"):
            await gate.set_limit(group="bank", burst_size=1, if_version=0)
        with pytest.raises(CommandRefusedError, match="there is no group 'bonk'; known are bank"):
            await gate.set_limit(group="bonk", burst_size=1)
        for wrong in ({"service": first}, {"tenant": "acme"}):
            with pytest.raises(ArgumentError):
                await gate.set_limit(group="bank", burst_size=1, **wrong)
        await gate.set_limit(group="bank", requests_per_second=0, reason="closed")
        place = ["--bootstrap", gated.bootstrap, "--prefix", gated.names.prefix]
        assert await asyncio.to_thread(main, ["limit", "show", "--group", "bank", *place]) == 0
        assert re.search(r"^\(the group\) +requests_per_second: 0 .*closed", capsys.readouterr().out, re.MULTILINE)

        def is_shown() -> bool:
            assert main(["usage", first, *place]) == 0
            return "limit of group bank set by ann@ops" in capsys.readouterr().out

        await asyncio.to_thread(until, is_shown)  # its owner tells it with its usage
        await gated.log.write(gated.names.requests(second), b"late")
        await read_count(gated.bootstrap, [gated.names.rejected(second)], 1)
        assert await rejected(gated, second) == {b"late": "blocked"}
        assert (await gate.clear_limit(group="bank", if_version=2)).version == 3
        assert (await gate.limits(group="bank")).limit is None
    assert [one.what for one in await audit(gated, "group:bank")] == ["set-limit"] * 3 + ["clear-limit"]


async def test_it_ends_by_itself(gated):
    service = await parked(gated, (2, [], {}))
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
        await gate.set_limit(service, requests_per_second=0, for_=1)
        await gate.set_limit(service, requests_per_second=1000, burst_size=9, tenant="acme", for_=3600)
        for _ in range(600):  # until its record says so
            found = await gate.limits(service)
            if found.limit is None:
                break
            await asyncio.sleep(0.1)
        assert (found.limit, found.version, list(found.tenants)) == (None, 3, ["acme"])
    assert [record.what for record in await audit(gated, service)] == ["set-limit", "set-limit", "limit-ended"]


async def test_of_two_changes_against_one_version_one_is_refused_and_told_the_current_one(gated):
    service = await parked(gated)
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
        both = [gate.set_limit(service, requests_per_second=rate, if_version=0) for rate in (3, 4)]
        results = await asyncio.gather(*both, return_exceptions=True)
        refused = next(result for result in results if isinstance(result, CommandRefusedError))
        kept = next(result for result in results if not isinstance(result, Exception))
        assert f"the limits of {service} are at version 1, not 0" in str(refused)
        assert kept.version == (await gate.limits(service)).version == 1
        again = await gate.set_limit(service, requests_per_second=9, if_version=1, command_id="mine")
        for wrong in ({"requests_per_second": "fast"}, {"burst_size": 1, "tenant": " a"}):
            with pytest.raises(CommandRefusedError, match=r"fast|cannot be a tenant"):
                await gate.set_limit(service, **wrong)
        twice = await gate.set_limit(service, requests_per_second=9, if_version=1, command_id="mine")
        assert again.version == twice.version == (await gate.limits(service)).version == 2


async def test_what_can_not_be_is_refused_before_it_is_sent(gated):
    service = await gated.service()

    def script():
        with SyncGateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
            for wrong in ({}, {"burst_size": 0}, {"burst_size": 1, "for_": 0}, {"requests_per_second": "1" * 65}):
                with pytest.raises(ArgumentError):
                    gate.set_limit(service, **wrong)
            with pytest.raises(UnknownServiceError, match=service):
                gate.set_limit("paymets", requests_per_second=5)
            assert gate.limits(service).version == 0

    await asyncio.to_thread(script)
    commands = [control.decode(record.value) for record in await gated.log.read(gated.names.control)]
    assert not [command for command in commands if getattr(command, "service", "") == service]
    assert LiveLimit().says is False


async def test_limits_of_many_tenants_come_as_a_whole_and_go_out_as_they_came(gated, tmp_path, capsys):
    service = await parked(gated, (3, tenant("t7"), {}))
    place = ["--bootstrap", gated.bootstrap, "--prefix", gated.names.prefix]
    rows = [f"t{number},{1 + number % 5}/min,,," for number in range(9_000)] + ["t-open,1000,50,1s,1000"]
    file = tmp_path / "tenants.csv"
    file.write_text("tenant,requests_per_second,burst_size,window_size,window_limit\n" + "\n".join(rows) + "\n")

    def run(*tokens):
        code = main([str(token) for token in tokens])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    async def limit(*tokens):
        return await asyncio.to_thread(run, "limit", *tokens, *place)

    code, told, said = await limit("import", file, "--service", service, "--reason", "contracts")
    assert (code, told) == (0, f"limits of 9001 tenants of {service} are set; version 1\n")
    known = re.fullmatch(r"gate: import (\w+) is taken; until all of it holds nothing of it does\n", said)[1]
    code, _, said = await limit("import", "--abort", known, "--service", service)
    assert (code, f"command {known} is over: done" in said) == (1, True)
    code, first, _ = await limit("export", service)
    assert (code, len(first.splitlines())) == (0, 9_002)
    assert f"{service},t-open,1000,50,1s,1000,,," in first.splitlines()
    (tmp_path / "again.csv").write_text(first.replace(f"{service},t7,3/min,,,,,,\n", ""))
    code, told, _ = await limit("import", tmp_path / "again.csv", "--if-version", 1, "--json")
    answer = json.loads(told)
    assert (code, answer["state"], answer["of"], answer["version"]) == (0, "done", 9_000, 2)
    code, lines, _ = await limit("export", service, "--json")
    assert "t7" not in {json.loads(line)["tenant"] for line in lines.splitlines()}
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(first + f"{service},t-last,fast,,,,,,\n")
    code, _, said = await limit("import", wrong)
    assert (code, f"{wrong}:9003: requests_per_second: must be a rate" in said) == (1, True)
    code, _, said = await limit("import", file, "--service", service, "--if-version", 1)
    assert (code, f"the limits of {service} are at version 2, not 1" in said) == (1, True)
    async with GateControl(gated.bootstrap, prefix=gated.names.prefix) as gate:
        with pytest.raises(CommandRefusedError, match="tenant 'bad': requests_per_second: must be a rate"):
            await gate.import_limits(service, {"good": LiveLimit("5"), "bad": LiveLimit("fast")})
        assert (await gate.limits(service)).version == 2
        assert (await gate.clear_limit(service, everything=True)).version == 3
        assert (await gate.limits(service)).tenants == {}
    assert [(one.what, one.result) for one in await audit(gated, service)] == [
        ("import-limits", "done"), ("abort", "failed"),
        ("import-limits", "done"), ("import-limits", "failed"), ("import-limits", "failed"),
        ("clear-limit", "done"),
    ]  # fmt: skip
