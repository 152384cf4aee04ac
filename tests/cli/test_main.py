"""The frame of the commands: exit codes, one line on stderr, no traceback unless asked for."""

import gc
import json
import re
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from cyclopts import App

from gate import cli
from gate.errors import GateError
from gate.shard import failpoints


@pytest.fixture
def command(monkeypatch):
    """Register a function as `gate probe`."""

    def register(function):
        module = ModuleType("gate.cli.probe")
        module.probe = function
        monkeypatch.setitem(sys.modules, "gate.cli.probe", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", "Probe.")

    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    return register


def raising(error):
    def probe(*, times: int = 1):
        raise error

    return probe


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), ("text", 0)])
def test_a_command_may_return_an_exit_code(command, returned, code):
    command(lambda: returned)
    assert cli.main(["probe"]) == code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            GateError("no broker\non a:1", hint="start one:\ngate broker"),
            "gate: no broker on a:1\n  start one:\n  gate broker\n",
        ),
        (GateError("no broker"), "gate: no broker\n"),
        (ExceptionGroup("g", [OSError("x"), ExceptionGroup("h", [GateError("no broker")])]), "gate: no broker\n"),
        (ZeroDivisionError("by zero"), "gate: ZeroDivisionError: by zero\n  this was not foreseen; GATE_TRACEBACK=1 "),
        (ExceptionGroup("g", [KeyError("k")]), "gate: KeyError: 'k'\n  this was not foreseen"),
    ],
)
def test_a_failure_is_one_line_and_a_hint(command, capsys, error, said):
    command(raising(error))
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr().err.startswith(said)


def test_a_traceback_comes_on_request(command, capsys, monkeypatch):
    monkeypatch.setenv(cli.TRACEBACK, "1")
    command(raising(ZeroDivisionError("by zero")))
    assert cli.main(["probe"]) == 1
    assert "in probe" in capsys.readouterr().err


def test_ctrl_c_is_silent(command, capsys):
    command(raising(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["prob"], 'Did you mean "probe"'),
        (["probe", "--tims", "2"], "Did you mean --times"),
        (["probe", "--times", "two"], 'unable to convert "two" into int'),
    ],
)
def test_bad_usage_is_2_and_points_to_the_help(command, capsys, tokens, said):
    command(raising(AssertionError("must not run")))
    assert cli.main(tokens) == 2
    line, hint = capsys.readouterr().err.splitlines()
    assert line.startswith("gate: ")
    assert said in line
    assert hint.strip().startswith("see: gate ")


TALKATIVE = """
import sys
from gate import cli
cli._app = lambda tokens: lambda *args, **options: print("x" * 10**6)
sys.exit(cli.main())
"""


def test_a_reader_that_goes_away_is_no_traceback():
    with subprocess.Popen([sys.executable, "-c", TALKATIVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, b"")


def test_a_failure_is_one_json_object_where_json_is_asked_for(command, capsys):
    def probe(*, json: bool = False):
        raise GateError("no broker\non a:1", hint="start one:\ngate broker")

    command(probe)
    assert cli.main(["probe", "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err) == {
        "error": "no broker on a:1", "hint": "start one:\ngate broker", "exit_code": 1,
    }  # fmt: skip
    assert cli.main(["probe", "--json", "--tims"]) == 2
    assert json.loads(capsys.readouterr().err)["exit_code"] == 2
    assert cli.main(["probe", "--", "--json"]) == 2  # it is not ours
    assert capsys.readouterr().err.startswith("gate: ")


def commands():
    """Return what is typed for each command, and for each part of those that have parts."""
    found = []
    for name in cli.COMMANDS:
        command = getattr(import_module(f"gate.cli.{name}"), name)
        if not isinstance(command, App) or command.default_command is not None:
            found.append((name,))
        if isinstance(command, App):
            found += [(name, part) for part in command if not part.startswith("-")]
    return found


@pytest.mark.parametrize("tokens", commands(), ids=" ".join)
def test_every_command_has_an_example_and_json_and_refuses_what_it_does_not_know(tokens, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, f"gate.cli.{tokens[0]}")  # an overview in this process has replaced its help
    assert cli.main([*tokens, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"gate {' '.join(tokens)}" in shown.partition("xample")[2]
    assert re.search(r"--json +\S", shown), "print JSON where it is asked for, and say which: see gate/cli/output.py"
    assert "--no-json" not in shown
    assert cli.main([*tokens, "--no-such-option"]) == 2
    line, hint = capsys.readouterr().err.splitlines()
    assert (line.startswith("gate: "), hint.strip()) == (True, f"see: gate {tokens[0]} --help")
    assert cli.main([*tokens, "--no-such-option", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["exit_code"] == 2


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A policy file that names a broker which does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    file = tmp_path / "policy.yaml"
    file.write_text(f"bootstrap: {address}\nconnect_timeout: 200ms\nservices: {{pay: {{requests_per_second: 1}}}}\n")
    for name in ("BOOTSTRAP", "PREFIX", "CONNECT_TIMEOUT"):
        monkeypatch.delenv(f"GATE_{name}", raising=False)
    monkeypatch.setenv("GATE_CONFIG", str(file))
    thresholds = gc.get_threshold()
    yield address
    gc.set_threshold(*thresholds)
    gc.unfreeze()


WITHOUT_A_BROKER = {"demo", "broker", "policy", "sidecar"}
ARGUMENTS = {
    ("submit",): ["pay", "--count", "1"],
    ("tail",): ["admitted"],
    ("worker",): ["pay", "--", "true"],
    ("pause",): ["pay"],
    ("resume",): ["pay"],
    ("cancel",): ["pay", "--all", "--dry-run"],
    ("move",): ["pay", "--all", "--to", "default"],
    ("expedite",): ["pay", "--all"],
    ("redrive",): ["pay", "--all"],
    ("where",): ["gate.requests.pay-0@1"],
    ("limit", "set"): ["pay", "--rps", "5"],
    ("limit", "show"): ["pay"],
    ("limit", "clear"): ["pay"],
    ("limit", "import"): [__file__.replace("test_main.py", "tenants.csv")],
    ("limit", "export"): ["pay"],
    ("replay",): ["pay"],
    ("reshard",): ["4"],
    ("transactions", "abort"): ["--topic", "t", "--partition", "0", "--start-offset", "0"],
}


@pytest.mark.parametrize("tokens", [one for one in commands() if one[0] not in WITHOUT_A_BROKER], ids=" ".join)
def test_a_broker_that_does_not_answer_is_one_line_of_every_command(tokens, nobody, capsys):
    """What a new command must be given stands in ARGUMENTS."""
    arguments = ARGUMENTS.get(tokens, [])
    assert cli.main([*tokens, *arguments]) == 1
    printed = capsys.readouterr()
    told = [line for line in printed.err.splitlines() if not line.startswith("20")]  # a log's lines begin with a date
    assert (printed.out, len(told)) == ("", 2)
    assert told[0] == f"gate: no Kafka broker answers at {nobody} (tried for 0.2 s)"
    assert cli.main([*tokens, "--json", *arguments]) == 1
    error = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert error.keys() == {"error", "hint", "exit_code"}
    assert f"no Kafka broker answers at {nobody}" in error["error"]


def test_the_overview_imports_no_command():
    script = "import sys; from gate.cli import main; main(['--help']); sys.exit('aiokafka' in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(name in listed.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for_a_shell(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    assert cli.main(["--install-completion"]) == 0
    (script,) = [Path(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if "script installed" in line]
    assert script.is_relative_to(tmp_path)
    assert "replay" in script.read_text()


@pytest.mark.parametrize("text", ["after-comit", "after-commit:0", "after-commit:soon", ":2"])
def test_a_misspelt_failpoint_is_an_error_and_not_a_run_in_which_nothing_is_killed(text, command, capsys, monkeypatch):
    command(lambda: 0)
    monkeypatch.setenv(failpoints.VARIABLE, text)
    assert cli.main(["probe"]) == 1
    assert f"GATE_FAILPOINT is '{text}', which is no point" in (error := capsys.readouterr().err)
    assert "after-commit" in error
