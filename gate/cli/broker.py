"""`gate broker`."""

import re
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter, validators
from cyclopts.types import Port

from gate.cli.options import Flag
from gate.cli.output import tell
from gate.cli.progress import progress
from gate.errors import GateError
from gate.kafka.local import LocalBroker, LocalCluster
from gate.kafka.local import broker as single
from gate.kafka.local import cluster as several
from gate.kafka.local.remote import Request, ask, listening

STOP: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MOST_NODES: Final = 7
_WATCH: Final = 0.2  # seconds

broker = App(
    name="broker",
    help="""Run a local Apache Kafka until interrupted; no Docker needed.

    On 127.0.0.1, for trying things out and for tests. The first run downloads Kafka (45 MB) into the cache. Prints
    `bootstrap: HOST:PORT` once it serves. Ctrl-C stops it. With `--nodes 3` all is kept on three nodes, of which one
    may fail; the commands below make it fail, from another terminal.

    Example: `gate broker --nodes 3`
    """,
)


def _heap(_type: object, value: str | None) -> None:
    if value is not None and not re.fullmatch(r"[1-9]\d*[kmg]", value, re.IGNORECASE | re.ASCII):
        raise ValueError("must be a number followed by k, m or g, such as 512m")


def _interrupt_once(*_: object) -> None:
    for stop in STOP:
        signal.signal(stop, signal.SIG_IGN)  # an impatient second Ctrl-C must not cut the clean-up short
    raise KeyboardInterrupt


@broker.default
def run(
    *,
    nodes: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=MOST_NODES))] = 1,
    port: Port | None = None,
    data: Path | None = None,
    heap: Annotated[str | None, Parameter(validator=_heap)] = None,
    json: Flag = False,
) -> None:
    """Run it.

    Parameters
    ----------
    nodes
        How many; with three or more each record is kept three times, and acknowledged when two nodes have it.
    port
        Where clients connect; a free port if not given. Further nodes have the ports behind it.
    data
        Folder that keeps the topics for the next run; a temporary one if not given.
    heap
        Memory of the JVM, or of each; 512m, with several nodes 384m.
    json
        Print one JSON object once it serves: bootstrap.
    """
    for stop in STOP:
        signal.signal(stop, _interrupt_once)
    try:
        if nodes == 1:
            _run_one(port, data, heap or single.HEAP, json=json)
        else:
            _run_several(nodes, port, data, heap or several.HEAP, json=json)
    except KeyboardInterrupt:
        return


def _run_one(port: int | None, data: Path | None, heap: str, *, json: bool) -> None:
    with progress() as say:
        running = LocalBroker.start(data, port=port, heap=heap, on_progress=say)
    with running:
        tell(f"bootstrap: {running.bootstrap}", json=json, bootstrap=running.bootstrap)
        reason = running.wait()
        raise GateError(reason, hint=f"its log ends with:\n{running.log_tail()}")


def _run_several(nodes: int, port: int | None, data: Path | None, heap: str, *, json: bool) -> None:
    with progress() as say:
        running = LocalCluster.start(data, nodes=nodes, port=port, heap=heap, on_progress=say)
    with running, listening(running):
        tell(f"bootstrap: {running.bootstrap}", json=json, bootstrap=running.bootstrap)
        while True:
            for number, code in running.ended().items():
                print(
                    f"node {number} ended with exit code {code}; `gate broker start {number}` starts it again",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
            time.sleep(_WATCH)


Bootstrap = Annotated[str | None, Parameter(env_var="GATE_BOOTSTRAP")]


def _ask(what: str, numbers: tuple[int, ...], bootstrap: str | None, *, json: bool) -> None:
    if not numbers:
        raise GateError(f"which node is to {what}?", hint=f"gate broker {what} 1")
    for number, line in zip(dict.fromkeys(numbers), ask(Request(what, numbers), bootstrap), strict=True):
        tell(line, json=json, node=number, did=what, stands=line)


def _command_nodes(what: str, sentence: str, example: str) -> None:
    """Add the command `gate broker WHAT NUMBER...`."""

    def command(*number: int, bootstrap: Bootstrap = None, json: Flag = False) -> None:
        _ask(what, number, bootstrap, json=json)

    command.__doc__ = f"""{sentence}

    Example: `gate broker {what} {example}`

    Parameters
    ----------
    number
        Of the nodes, from 1 on.
    bootstrap
        Of the cluster, if several run on this machine.
    json
        Print a JSON object per node: node, did, and in words how it stands.
    """
    broker.command(command, name=what)


_command_nodes("stop", "Shut nodes down as for maintenance: what they lead is handed over first.", "2")
_command_nodes("start", "Start nodes again, with the data that they had.", "2 3")
_command_nodes("restart", "Shut nodes down and start them again, one after the other.", "1 2 3")
_command_nodes("kill", "Kill nodes by SIGKILL: nobody is told, and nothing is handed over.", "2")
_command_nodes("pause", "Let nodes stand still by SIGSTOP: their connections stay, answers do not come.", "2")
_command_nodes("resume", "Let paused nodes go on.", "2")
