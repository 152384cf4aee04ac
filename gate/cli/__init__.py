"""The commands, and the rules that hold for all of them.

A command is `gate/cli/NAME.py` with a function (or a cyclopts App) of the same name, and one line in `COMMANDS`. Its
docstring is its help and ends with an example. It raises GateError for what the user can act upon, and may return an
exit code. With `--json`, which every command takes, stdout holds JSON alone, and an error is one JSON object on stderr.
Exit codes: 0 success, 1 failure with one line on stderr, 2 bad usage, 130 Ctrl-C.
"""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final

from cyclopts import App, CycloptsError

from gate.cli.output import InterruptedCommandError, fail, is_json
from gate.errors import GateError
from gate.shard import failpoints

COMMANDS: Final[Mapping[str, str]] = {
    "demo": "Play the main job on a real broker, with live numbers, and check the sums.",
    "broker": "Run a local Apache Kafka until interrupted.",
    "run": "Run one gate instance; several share the work.",
    "submit": "Submit requests: lines of a file, of stdin, or generated ones.",
    "usage": "Show limits, rate, backlog and ETA of each service and lane.",
    "console": "Serve a page of the whole group: who is held back, by what, until when.",
    "top": "Show in the terminal who is held back, by what, until when, and act on it.",
    "tail": "Print admitted, delayed or rejected requests, or alerts, as they come.",
    "worker": "Run a command for each admitted request of a service.",
    "pause": "Admit nothing of a service, or of one of its tenants, for a time.",
    "resume": "End a pause now.",
    "cancel": "Reject requests that wait, by filter, exactly once.",
    "move": "Put requests that wait into another lane, by filter.",
    "expedite": "Let requests that wait go next, by filter.",
    "redrive": "Put what was rejected, or a part of a topic, back into its service, by filter.",
    "where": "Show where one request stands: until when it waits and why, or what became of it.",
    "limit": "Set limits while gates run, over the policy file.",
    "audit": "Show who commanded what, when and why.",
    "alerts": "Print alerts as they come, and carry them to Alertmanager, chat, mail or a webhook.",
    "replay": "Show what a policy would have done to the recorded requests.",
    "doctor": "Check broker, topics, permissions and clocks; say what to do about each fault.",
    "transactions": "Show transactions that hold readers up, and end them.",
    "reshard": "Change the number of shards, or the group of a service; state and backlog come along.",
    "upgrade": "Show in which format the state is written, and switch to the newest.",
    "sidecar": "Serve limits to programs in any language: Envoy's rate limit service, and HTTP.",
    "policy": "Check, show and compare policy files.",
}
"""Name and one line of each command, in the order of `gate --help`; its module is imported when it is called."""

TRACEBACK: Final = "GATE_TRACEBACK"


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command, by default that of the command line; return its exit code."""
    tokens = sys.argv[1:] if tokens is None else tokens
    json = is_json(tokens)
    try:
        failpoints.arm(os.environ)
        result = _app(tokens)(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return fail(2, str(error), f"see: {' '.join(['gate', *_command(tokens), '--help'])}", json=json)
    except InterruptedCommandError as error:
        return fail(130, str(error), error.hint, json=json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough; the interpreter must not try to flush the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - a user gets a line, not a traceback
        return _report(error, json=json)
    return result if isinstance(result, int) else 0


def _app(tokens: Sequence[str]) -> App:
    app = App(
        name="gate",
        help="Admission gate for Apache Kafka: exact global limits, and an honest time for everyone who waits.",
        version=lambda: version("kafka-admission-gate"),
        suppress_keyboard_interrupt=False,
    )
    for name, summary in COMMANDS.items():
        # A help text given here would replace the one in the command's docstring
        app.command(f"gate.cli.{name}:{name}", name=name, help=None if [name] == _command(tokens) else summary)
    app.register_install_completion_command(help="Install completion for the shell in use: bash, zsh or fish.")
    return app


def _command(tokens: Sequence[str]) -> list[str]:
    return [name for name in tokens[:1] if name in COMMANDS]


def _report(error: Exception, *, json: bool) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    cause: Exception = error
    while isinstance(cause, ExceptionGroup):  # of a task group: what the user can act upon, else the first
        cause = (cause.subgroup(GateError) or cause).exceptions[0]
    if isinstance(cause, GateError):
        return fail(1, str(cause), cause.hint, json=json)
    hint = f"this was not foreseen; {TRACEBACK}=1 shows where it happened"
    return fail(1, f"{type(cause).__name__}: {cause}", hint, json=json)
