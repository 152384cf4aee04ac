"""Where the time of a run of the suite goes: by part, capability, folder and file.

`python -m tests.durations REPORT.xml ...` reads what pytest wrote with `--junitxml`, a report for each part of the run.
Several processes share a part, so that its tests take more seconds than go by on the clock; "of the clock" is how long
the part took, divided by what its tests took. "processor" is the time of the test's process and of what that started
and waited for, thus without the broker that all tests share.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from rich.table import Table

from tests.capabilities import CORE, FILES, TESTS, capability

_CPU: Final = "cpu_seconds"
_SLOWEST: Final = 25


@dataclass(frozen=True, slots=True)
class Spent:
    """What a test took: seconds by the clock, as a share of its part too, and of processor time."""

    file: str  # from the folder of the tests
    seconds: float
    share_seconds: float  # all of a part's add up to how long the part took
    cpu_seconds: float


# -- while tests run ---------------------------------------------------------------------------------------------------


def _used() -> float:
    return sum(os.times()[:4])


class Meter:
    """A plugin that adds the processor time of each test to its report."""

    def __init__(self) -> None:
        self._before = 0.0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Begin with a test."""
        self._before = _used()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """End with its last report, the one whose properties are written."""
        if call.when == "teardown":
            item.user_properties.append((_CPU, f"{_used() - self._before:.3f}"))
        return (yield)


# -- afterwards --------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Spent]:
    """Return what the tests of one part took."""
    (suite,) = ET.parse(path).getroot().iter("testsuite")
    cases = list(suite.iter("testcase"))
    share = float(suite.attrib["time"]) / (sum(float(case.attrib["time"]) for case in cases) or 1.0)
    return [_spent(case, share) for case in cases]


def _spent(case: ET.Element, share: float) -> Spent:
    seconds = float(case.attrib["time"])
    cpu = sum(float(one.attrib["value"]) for one in case.iter("property") if one.attrib["name"] == _CPU)
    return Spent(_file(case.attrib["classname"]), seconds, seconds * share, cpu)


def _file(classname: str) -> str:
    """Return the file of `tests.chaos.test_nodes`, which may have a class behind it."""
    names = classname.split(".")[1:]
    while len(names) > 1 and not TESTS.joinpath(*names).with_suffix(".py").exists():
        names.pop()
    return "/".join(names) + ".py"


def tables(parts: Iterable[tuple[str, list[Spent]]]) -> Iterator[Table]:
    """Say where the time went: parts, capabilities, folders, the slowest files."""
    by_part = dict(parts)
    everything = [spent for part in by_part.values() for spent in part]
    yield _table("part", by_part | {"all": everything})
    by_capability = _grouped(everything, lambda spent: capability(spent.file))
    yield _table("shows", {name: by_capability[name] for name in (CORE, *FILES)})
    yield _table("folder", _slowest_first(_grouped(everything, lambda spent: spent.file.rpartition("/")[0] or ".")))
    yield _table("file", dict(list(_slowest_first(_grouped(everything, lambda spent: spent.file)).items())[:_SLOWEST]))


def _grouped(spent: Iterable[Spent], key: Any) -> dict[str, list[Spent]]:
    groups = defaultdict(list)
    for one in spent:
        groups[key(one)].append(one)
    return groups


def _slowest_first(groups: dict[str, list[Spent]]) -> dict[str, list[Spent]]:
    return dict(sorted(groups.items(), key=lambda group: -sum(one.seconds for one in group[1])))


def _table(first: str, groups: dict[str, list[Spent]]) -> Table:
    table = Table(first, box=None, pad_edge=False)
    for column in ("tests", "of the clock", "in tests", "processor"):
        table.add_column(column, justify="right")
    for name, group in groups.items():
        sums = (sum(getattr(one, field) for one in group) for field in ("share_seconds", "seconds", "cpu_seconds"))
        table.add_row(name, str(len(group)), *(f"{value:.1f} s" for value in sums))
    return table


def main(arguments: list[str]) -> int:
    """Print the tables of some reports."""
    parser = argparse.ArgumentParser(prog="python -m tests.durations", description="Where the time of the suite goes.")
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT.xml")
    console = Console(width=100, highlight=False)
    for table in tables((path.stem, read(path)) for path in parser.parse_args(arguments).reports):
        console.print(table, "")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
