"""The frame of the commands: exit codes, one line on stderr, no traceback unless asked for."""

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


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_every_command_has_an_example(name, capsys):
    command = getattr(import_module(f"gate.cli.{name}"), name)
    parts = [part for part in command if not part.startswith("-")] if isinstance(command, App) else []
    for tokens in [[name, part] for part in parts] or [[name]]:
        assert cli.main([*tokens, "--help"]) == 0
        assert f"gate {' '.join(tokens)}" in capsys.readouterr().out.partition("xample")[2]


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
