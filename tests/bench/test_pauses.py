import json

from bench.__main__ import main
from bench.pauses import page
from bench.pauses.contenders import GATE, LANES, STREAMS, group_partition, key_of, like
from bench.pauses.faults import KINDS
from bench.pauses.run import LOAD, Struck, longest
from bench.pipeline.page import machine


def struck(kind: str, ours: list[float], theirs: list[float], number: int = 1) -> Struck:
    return Struck(kind, number, 0, 1000, {GATE: ours, STREAMS: theirs, LOAD: [0.1]})


def test_a_pause_is_the_longest_time_without_an_output_that_touches_the_fault():
    moments = [0, 100, 900, 1_000, 4_000, 4_100]
    assert longest(moments, 950, 2_000) == 3_000  # it begins in it
    assert longest(moments, 500, 950) == 800  # it ends in it
    assert longest(moments, 2_000, 3_000) == 3_000  # it is longer than it
    assert longest(moments, 4_050, 4_090) == 100
    assert longest([], 1_000, 9_000) == 8_000  # nothing at all came out
    assert longest([1_000], 1_000, 9_000) == 8_000


def test_both_groups_have_the_same_coordinator_and_each_lane_a_key():
    assert group_partition("gate") == 3165387 % 4  # "gate".hashCode()
    assert group_partition("streams-1") == 315607593 % 4  # its hashCode() is -315607593
    assert group_partition(like("gate", "streams")) == group_partition("gate")
    assert len({key_of(lane) for lane in range(LANES)}) == LANES


def test_ratios_are_of_the_worst_lanes_in_the_same_fault():
    faults = [struck("none", [0.1, 0.2], [0.2, 0.3]), struck("kill", [1.0, 4.0], [2.0, 8.0])]
    faults.append(struck("kill", [3.0, 1.0], [2.0, 2.0], 2))
    results = {one.name: (one.ratio, one.min, one.max) for one in page.results(faults)}
    assert results["pause/kill"] == (1.0, 0.5, 1.5)
    assert results["pause/kill/gate"] == (3.5, 3.0, 4.0)
    assert "| kill | **2.0 s** | 4.0 s | 2.0 s | 8.0 s | 0.1 s, 0.1 s |" in page.table(faults)


def test_the_table_says_by_how_much_a_rolling_restart_is_longer_than_usual():
    faults = [struck("none", [0.1, 0.5], [0.2, 0.3]), struck("rolling-restart", [0.4, 1.5], [2.0, 8.0])]
    assert page.table(faults).endswith(
        "beyond the longest pause without a fault: gate p50 0.50 s, p99 1.00 s; kafka-streams p50 4.70 s, p99 7.70 s."
    )


def test_figures_go_between_their_marks_and_become_a_picture(tmp_path):
    raw, text = tmp_path / "raw.json", tmp_path / "page.md"
    raw.write_text(json.dumps([struck("none", [0.1], [0.2]).as_json()]))
    text.write_text(f"a\n{page.MARKS[0]}\nold\n{page.MARKS[1]}\nb\n")
    page.write_page(raw, text, tmp_path / "drawn.png")
    assert machine() in text.read_text()
    assert "old" not in text.read_text()
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_kind_is_refused_before_anything_starts(monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", ["bench", "--pauses", "--faults", "flood"])
    assert main() == 2
    assert f"unknown: flood; there are {', '.join(KINDS)}" in capfd.readouterr().err
