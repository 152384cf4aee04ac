"""`gate replay` reads what was recorded, touches nothing, and compares policies."""

import json

import pytest

from gate.cli import main
from tests.system.gates import create, send


@pytest.fixture
def policies(tmp_path):
    slow, quick = tmp_path / "slow.yaml", tmp_path / "quick.yaml"
    slow.write_text("defaults: {requests_per_second: 10, burst_size: 5}\n")
    quick.write_text("defaults: {requests_per_second: 1000}\n")
    return str(slow), str(quick)


async def _record(bootstrap: str, prefix: str) -> None:
    await create(bootstrap, f"{prefix}.requests.pay")
    good = [(None, b"x", [])] * 29
    await send(bootstrap, f"{prefix}.requests.pay", [*good, (None, b"x", [("gate-cost", b"NaN")])])


def test_two_policies_side_by_side(bootstrap, prefix, policies, tmp_path, capsys):
    import asyncio

    asyncio.run(_record(bootstrap, prefix))
    where = ["--bootstrap", bootstrap, "--prefix", prefix]
    picture = tmp_path / "pictures" / "replay.png"
    slow, quick = policies
    code = main(["replay", "pay", "--config", slow, "--against", quick, "--json", "--plot", str(picture), *where])
    said = capsys.readouterr()
    assert code == 0, said.err
    first, second = json.loads(said.out)
    assert (first["offered"], first["admitted"], second["admitted_at_once"]) == (29, 29, 29)
    assert first["wait_ms"]["p100"] == pytest.approx(2400, abs=1000)
    assert "1 malformed" in said.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["replay", "pay", "--config", slow, "--against", quick, *where]) == 0
    assert "go sooner" in capsys.readouterr().out


def test_clear_errors(bootstrap, prefix, policies, capsys):
    where = ["--bootstrap", bootstrap, "--prefix", prefix]
    assert main(["replay", "pay", "--config", policies[0], *where]) == 1
    assert f"no topic {prefix}.requests.pay" in capsys.readouterr().err
    assert main(["replay", "pay", "--config", policies[0], "--since", "soon", *where]) == 2
    assert "such as" in capsys.readouterr().err
