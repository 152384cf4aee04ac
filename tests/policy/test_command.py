"""`gate policy`, as typed."""

import json
import re
import sys
from pathlib import Path

import pytest

from gate.cli import main

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "policy.yaml")


@pytest.fixture
def run(capsys):
    def run(*tokens):
        code = main(["policy", *tokens])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def write(tmp_path):
    def write(text, name="policy.yaml"):
        file = tmp_path / name
        file.write_text(text)
        return str(file)

    return write


def test_check_lists_what_each_service_gets(run):
    code, out, err = run("check", EXAMPLE)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert re.search(
        r"10/s, burst 40; 600 per 1m +delay up to 1h; group bank-api; lanes interactive 6", rows["payments"]
    )
    assert "10/min, burst 10; 10 per 1m; 100 per 1d" in rows["reports-*"]
    assert "5/s, burst 150; 300 per 1m; 100000 per month of Europe/Berlin" in rows["bureau"]
    assert "50/s, burst 50" in rows["bank-api"]
    assert "shadow" in rows["notifications"]
    assert "(all others)" in out
    assert ":32: note: services.notifications: shadow: decides and reports, and admits everything" in out
    assert re.search(r"valid, version [0-9a-f]{6}$", out.rstrip())


def test_check_of_a_broken_file_says_everything_on_stderr(run, write):
    file = write("services: {pay: {brust_size: 1, shadow: on}}\n")
    code, out, err = run("check", file)
    assert (code, out) == (1, "")
    assert err.startswith(f"{file}:1:18: services.pay.brust_size: unknown field\n  1 | services")
    assert err.endswith(f"{file}: 2 errors\n")


def test_check_for_programs(run, write):
    code, out, _ = run("check", EXAMPLE, "--json")
    said = json.loads(out)
    assert (code, said["valid"], len(said["services"]), len(said["notes"])) == (0, True, 7, 1)
    assert said["services"][0]["windows"] == [{"limit": 600, "size": "1m"}]
    code, out, err = run("check", write("services: {pay: {brust_size: 1}}"), "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["problems"] == [
        {
            "line": 1,
            "column": 18,
            "field": "services.pay.brust_size",
            "message": "unknown field",
            "hint": "did you mean burst_size?",
        }
    ]


def test_check_refuses_topics_that_could_be_taken_for_one_another(run, write):
    file = write('services: {pay: {}}\ntopics: {admitted: "{prefix}.requests.{service}"}\n')
    code, _, err = run("check", file)
    assert code == 1
    assert err.startswith(f"{file}:2:1: topics: ")
    assert "requests" in err


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_missing_file(run, command):
    code, out, err = run(command, "/nowhere/policy.yaml")
    assert (code, out) == (1, "")
    assert "/nowhere/policy.yaml: no such file\n" in err


def test_show_says_where_each_field_came_from(run):
    code, out, err = run("show", EXAMPLE, "payments")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: re.split(" {2,}", line.strip())[1:] for line in out.splitlines() if line}
    assert rows["burst_size"] == ["40", "exact", "15"]
    assert rows["requests_per_second"] == ["10", "template bulk", "8"]
    assert rows["max_delay"] == ["3600", "defaults", "4"]
    assert rows["window_limit"] == ["600", "from requests_per_second"]
    assert rows["near_limit"] == ["0.8", "built-in"]


def test_show_takes_a_name_that_a_glob_covers_and_the_glob_itself(run):
    for name in ("reports-eu", "reports-*"):
        code, out, _ = run("show", EXAMPLE, name, "--json")
        fields = json.loads(out)["fields"]
        assert code == 0
        assert fields["requests_per_second"] == {"value": "10/min", "source": 'glob "reports-*"', "line": 19}


def test_show_of_everything(run):
    code, out, _ = run("show", EXAMPLE)
    assert code == 0
    titles = [
        "payments",
        "refunds",
        "bureau",
        "search",
        "imports",
        "notifications",
        "reports-*",
        "(all others)",
        "group bank-api",
    ]
    assert [line for line in out.splitlines() if line in titles] == titles
    said = json.loads(run("show", EXAMPLE, "--json")[1])
    assert list(said["services"]) == titles[:6]
    assert said["settings"]["delivery"] == "exactly_once"
    assert said["groups"]["bank-api"]["burst_size"] == {"value": 50, "source": "group", "line": 12}


def test_show_of_a_service_that_no_policy_covers(run, write):
    code, out, err = run("show", write("services: {payments: {}}"), "paymnts")
    assert (code, out) == (1, "")
    assert "no policy applies to service 'paymnts'" in err
    assert "did you mean payments?" in err


def test_diff(run, write):
    old = write("services: {pay: {requests_per_second: 1, window_size: 60}}", "old.yaml")
    new = write("services: {pay: {requests_per_second: 2, window_size: 1m, burst_size: 1}}", "new.yaml")
    code, out, err = run("diff", old, new)
    assert (code, err) == (0, "")
    assert re.search(r"^pay +requests_per_second +1 +2 +exact *$", out, flags=re.MULTILINE)
    assert re.search(r"^ +window_limit +60 +120 +from requests_per_second *$", out, flags=re.MULTILINE)
    assert re.search(r"2 differences in effect, version \w{6} -> \w{6}$", out.rstrip())
    changes = json.loads(run("diff", old, new, "--json")[1])["changes"]
    assert [(change["field"], change["before"], change["after"]) for change in changes] == [
        ("requests_per_second", 1, 2),
        ("window_limit", 60, 120),
    ]
    assert run("diff", old, old)[:2] == (0, "no difference in effect, same version\n")


def test_output_is_whole_where_no_terminal_bounds_it(run, write):
    lanes = ", ".join(f"lane-number-{i}: {i + 1}" for i in range(30))
    code, out, _ = run("show", write(f"services: {{pay: {{priorities: {{{lanes}}}}}}}"), "pay")
    assert code == 0
    assert lanes in out


def test_what_a_name_holds_is_not_taken_for_markup(run, write):
    file = write('services: {pay: {tenants: {"[red]x": {burst_size: 1}}}}')
    assert '"[red]x".burst_size' in run("show", file, "pay")[1]
    assert "tenants [red]x" in run("check", file)[1]


@pytest.mark.parametrize("tokens", [("check",), ("check", EXAMPLE, "--nope"), ("diff", EXAMPLE), ("chek", EXAMPLE)])
def test_bad_usage(run, tokens):
    code, out, err = run(*tokens)
    assert (code, out) == (2, "")
    assert err.startswith("gate: ")


@pytest.mark.parametrize("tokens", [("--help",), ("check", "--help"), ("show", "--help"), ("diff", "--help")])
def test_help_has_an_example(run, tokens, monkeypatch):
    # its text is replaced for good in a process that has shown `gate --help` before
    monkeypatch.delitem(sys.modules, "gate.cli.policy", raising=False)
    code, out, _ = run(*tokens)
    assert code == 0
    assert "Example: gate policy" in out
