"""What a run of the suite took is told by part, capability, folder and file."""

from tests.capabilities import CORE, FILES, TESTS, capability
from tests.durations import main, read

REPORT = """<testsuites><testsuite name="pytest" tests="3" time="10.0">
<testcase classname="tests.chaos.test_nodes" name="test_a" time="12.0"><properties>
<property name="cpu_seconds" value="1.500" /><property name="of_its_own" value="a" /></properties></testcase>
<testcase classname="tests.limits.test_steps.TestBucket" name="test_b" time="6.0" />
<testcase classname="tests.test_units" name="test_c" time="2.0" />
</testsuite></testsuites>"""


def test_each_file_that_shows_a_capability_is_there():
    named = [name for names in FILES.values() for name in names]
    assert [name for name in named if not (TESTS / name).exists()] == []
    assert len(set(named)) == len(named)


def test_a_file_shows_what_it_or_its_folder_is_named_for():
    assert capability("chaos/test_nodes.py") == "three brokers"
    assert capability("console/test_views.py") == "the console"
    assert capability("chaos/test_chaos.py") == capability("test_units.py") == CORE


def test_the_seconds_of_a_part_are_shared_by_what_its_tests_took(tmp_path):
    (tmp_path / "together.xml").write_text(REPORT, "utf-8")
    spent = read(tmp_path / "together.xml")
    assert [(one.file, one.seconds, one.share_seconds, one.cpu_seconds) for one in spent] == [
        ("chaos/test_nodes.py", 12.0, 6.0, 1.5),
        ("limits/test_steps.py", 6.0, 3.0, 0.0),
        ("test_units.py", 2.0, 1.0, 0.0),
    ]


def test_two_parts_are_told_one_by_one_and_together(tmp_path, capsys):
    for part in ("together", "alone"):
        (tmp_path / f"{part}.xml").write_text(REPORT, "utf-8")
    assert main([str(tmp_path / "together.xml"), str(tmp_path / "alone.xml")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["together", "3", "10.0", "s", "20.0", "s", "1.5", "s"] in lines
    assert ["all", "6", "20.0", "s", "40.0", "s", "3.0", "s"] in lines
    assert ["core", "4", "8.0", "s", "16.0", "s", "0.0", "s"] in lines
    assert ["three", "brokers", "2", "12.0", "s", "24.0", "s", "3.0", "s"] in lines
