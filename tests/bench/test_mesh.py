import json
import time
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.mesh import edge, page
from bench.mesh.contenders import ALL, GATE, LOCAL
from bench.mesh.plan import FLAT, LIMIT, OFFERED, SATURATED, phases
from bench.mesh.process import flat_out, paced, quantile
from bench.mesh.run import Outcome, judge, run
from bench.mesh.servers import SPELLS
from bench.mesh.setup import MissingError, go_program
from bench.pipeline.page import machine

THEIRS = "limits/fixed"
START = 1_764_000_000


def outcome(name: str, rate: float, p99: int, used: float | None = 1.0, fullest: int | None = LIMIT) -> Outcome:
    return Outcome(name, rate, 500, p99, 2.0, 600, p99, 0.5, used, fullest)


def test_the_limit_is_asked_for_often_enough_and_a_full_second_begins_within_some_spells():
    for quick in (True, False):
        flat, saturated, spells = phases(4, quick=quick)
        assert (flat.rate, flat.name) == (None, FLAT)
        assert saturated.rate == spells.rate == LIMIT * OFFERED / 4
        assert flat.end < saturated.begin < saturated.counts_from < saturated.end < spells.begin
        assert any(int(begin) != int(end) for begin, end in spells.spells)
    assert [phase.name for phase in phases(4, quick=True, limited=False)] == [FLAT]


def test_calls_are_made_at_their_pace_and_kept_if_they_may_go():
    answers = iter([True, False] * 50)
    took, uses = [], []
    begin = time.time()
    paced(lambda: next(answers), begin, begin + 0.1, 100, took, uses)
    assert 1 <= len(took) <= 10  # a machine that stalls leaves some out
    assert len(uses) == (len(took) + 1) // 2
    assert all(begin * 1e9 <= before <= after for before, after in uses)
    assert len(flat_out(lambda: True, time.time() + 0.05)) >= 1
    assert [quantile(range(100), share) for share in (0.5, 0.99)] == [50, 99]
    assert quantile([], 0.5) == 0


def told(name: str, calls: int, cpu: float, uses: list[tuple[int, int]]) -> dict[str, object]:
    return {"name": name, "calls": calls, "p50_ns": 500, "p99_ns": 900, "cpu": cpu, "uses": uses}


def test_what_processes_tell_becomes_figures_of_all_of_them_together():
    plan = phases(2, quick=True)
    at = round((START + plan[1].counts_from) * 1e9)
    mine = [told(FLAT, 3_000, 0.5, []), told(SATURATED, 100, 0.2, [(at, at + 5)] * 200)]
    yours = [told(FLAT, 1_000, 0.5, []), told(SATURATED, 100, 0.2, [(at - 9, at - 5)] * 150)]
    spells = told(SPELLS, 10, 0.1, [(at, at)] * 10)
    found = judge(GATE, plan, [[*mine, spells], [*yours, spells]], [1.0, 0.6, 0.0], START)
    assert found.rate == 2_000 / (plan[0].end - plan[0].begin)
    assert found.cpu_us == pytest.approx(2.0 / 4_000 * 1e6)
    assert found.cores == pytest.approx(1.0 / (plan[1].end - plan[1].begin))
    assert found.used == 200 / (LIMIT * (plan[1].end - plan[1].counts_from))
    assert found.fullest == 350
    assert found.over[0].startswith("350 of 300 in 1 s")
    assert len(found.over) == 2  # the bucket, too


def passed(name: str, p99: float, most: int) -> edge.Passed:
    took = {edge.PLAIN: [1.0] * 100, name: [1.0] * 98 + [p99] * 2}
    return next(one for one in edge.passed(took, {name: most}) if one.name == name)


def test_ratios_are_taken_within_a_round_and_bounds_are_held_against_them():
    rounds = [
        [
            outcome("gate", 1_000_000, 900),
            outcome(THEIRS, 5_000, 900_000, fullest=600),
            outcome(LOCAL.name, 800_000, 400),
        ],
        [outcome("gate", 500_000, 9_000, 0.9), outcome(THEIRS, 5_000, 90_000)],
    ]
    edges = [[passed(edge.PLAIN, 1.0, 0), passed(edge.OURS, 4.0, 50), passed(edge.THEIRS, 3.0, 99)]]
    found = {one.name: one for one in page.results(page.by_name(rounds), edges)}
    assert (found[f"mesh/time/{THEIRS}"].min, found[f"mesh/time/{THEIRS}"].max) == (0.005, 0.01)
    assert (found[f"mesh/p99/{THEIRS}"].min, found[f"mesh/p99/{THEIRS}"].max) == (0.001, 0.1)
    assert found[f"mesh/over/{THEIRS}"].max == 1.0
    assert found["mesh/envoy/added-p99"].ratio == 1.5
    assert found["mesh/envoy/over/envoyproxy/ratelimit"].ratio == 0.98
    bounds = {bound.name: bound for bound in page.bounds(list(found.values()))}
    assert bounds[f"mesh/time/{THEIRS}"].holds
    assert bounds["mesh/over/gate"].holds
    assert bounds["mesh/envoy/over/gate"].holds
    assert bounds["mesh/check/RateLimiter"].holds
    assert not bounds["not used of the limit"].holds
    assert str(bounds["not used of the limit"]).startswith("MISSED")


def test_figures_go_between_their_marks_and_become_a_picture(tmp_path: Path):
    raw, text = tmp_path / "raw.json", tmp_path / "page.md"
    some = [
        outcome("gate", 1_000_000, 900),
        outcome(LOCAL.name, 2_000_000, 400, None, None),
        outcome(THEIRS, 5_000, 10**6),
    ]
    edges = [[passed(edge.PLAIN, 1.0, 0), passed(edge.OURS, 4.0, 50), passed(edge.THEIRS, 3.0, 99)]]
    raw.write_text(
        json.dumps({"rounds": [[one.as_json() for one in some]], "edges": [[one.as_json() for one in edges[0]]]})
    )
    text.write_text(f"a\n{page.MARKS[0]}\nold\n{page.MARKS[1]}\nb\n")
    page.write_page(raw, text, tmp_path / "drawn.png")
    assert machine() in text.read_text()
    assert "old" not in text.read_text()
    assert f"| {THEIRS} | 5,000 | 0.5 | 1,000 | 1,000 | 2.0 | 0.50 | 100.0% | 300 of 300 |" in text.read_text()
    assert "| **gate sidecar** | 1.00 | 4.00 | 0.00 | 3.00 | 50 of 50 |" in text.read_text()
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_had_is_said_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("bench.mesh.setup.FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"^gubernator-cluster is built by go, which is not installed$"):
        go_program("github.com/gubernator-io/gubernator/v2/cmd/gubernator-cluster", "v2.13.0")


def test_an_unknown_contender_is_refused_before_anything_starts(monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", ["bench", "--mesh", "--only", "sentinel"])
    assert main() == 2
    assert f"unknown: sentinel; there are envoy, {', '.join(one.name for one in ALL)}" in capfd.readouterr().err


def test_the_gate_is_measured_on_a_broker_that_is_there(bootstrap: str, tmp_path: Path):
    found = run(GATE, tmp_path / "gate", 2, quick=True, bootstrap=bootstrap)
    assert found.over == ()
    assert found.fullest is not None
    assert 0 < found.fullest <= LIMIT
    assert found.rate > 0
    assert found.used is not None
    assert found.used > 0
