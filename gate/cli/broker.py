"""`gate broker`."""

import re
import signal
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.types import Port

from gate.cli.progress import progress
from gate.errors import GateError
from gate.kafka.local import LocalBroker
from gate.kafka.local.broker import HEAP

STOP: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _heap(_type: object, value: str) -> None:
    if not re.fullmatch(r"[1-9]\d*[kmg]", value, re.IGNORECASE | re.ASCII):
        raise ValueError("must be a number followed by k, m or g, such as 512m")


def _interrupt_once(*_: object) -> None:
    for stop in STOP:
        signal.signal(stop, signal.SIG_IGN)  # an impatient second Ctrl-C must not cut the clean-up short
    raise KeyboardInterrupt


def broker(
    *,
    port: Port | None = None,
    data: Path | None = None,
    heap: Annotated[str, Parameter(validator=_heap)] = HEAP,
) -> None:
    """Run a local Apache Kafka until interrupted; no Docker needed.

    One node on 127.0.0.1, for trying things out and for tests. The first run downloads Kafka (45 MB) into the cache.
    Prints `bootstrap: HOST:PORT` once it serves. Ctrl-C stops it.

    Example: `gate broker --port 9092 --data ./kafka`

    Parameters
    ----------
    port
        Where clients connect; a free port if not given.
    data
        Folder that keeps the topics for the next run; a temporary one if not given.
    heap
        Memory of the JVM.
    """
    for stop in STOP:
        signal.signal(stop, _interrupt_once)
    try:
        with progress() as say:
            running = LocalBroker.start(data, port=port, heap=heap, on_progress=say)
        with running:
            print(f"bootstrap: {running.bootstrap}", flush=True)
            reason = running.wait()
            raise GateError(reason, hint=f"its log ends with:\n{running.log_tail()}")
    except KeyboardInterrupt:
        return
