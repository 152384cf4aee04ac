import json

import pytest

from bench.results import Result, from_rounds, write


def test_ratios_are_taken_within_a_round():
    # the second round ran on a machine half as fast: each side doubles, and the ratio stays
    result = from_rounds("cpu/naive/100", [2.0, 4.0, 3.0], [10.0, 20.0, 10.0], "CPU")
    assert result == Result("cpu/naive/100", 0.2, 0.2, 0.3, "CPU")


def test_rounds_without_a_rival_are_refused():
    with pytest.raises(ValueError, match="zip"):
        from_rounds("x", [1.0, 2.0], [1.0], "CPU")


def test_results_replace_those_of_the_same_name_and_leave_the_others(tmp_path):
    file = tmp_path / "build" / "bench.json"
    write([Result("b", 1, 1, 1, "u"), Result("a", 2, 2, 2, "u")], file)
    write([Result("b", 3, 2, 4, "u")], file)
    assert json.loads(file.read_text()) == [
        {"name": "a", "ratio": 2, "min": 2, "max": 2, "unit": "u"},
        {"name": "b", "ratio": 3, "min": 2, "max": 4, "unit": "u"},
    ]
