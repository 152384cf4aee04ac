"""`gate worker`."""

import logging
import shutil
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from consumers.handlers import Retry
from consumers.handlers import command as run_command
from consumers.worker import Worker
from gate.cli.client import Client, Service, log_to_stderr
from gate.errors import GateError


def worker(
    service: Service,
    command: Annotated[list[str], Parameter(negative="")],
    *,
    group: str | None = None,
    concurrency: Annotated[int, Parameter(validator=Number(gte=1, lte=1000))] = 10,
    max_attempts: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    client: Client | None = None,
) -> None:
    """Run a command for each admitted request of a service.

    The command gets the payload on its stdin; GATE_ID, GATE_KEY, GATE_ATTEMPT and a GATE_HEADER_NAME per header are
    in its environment. Exit code 0 means done; anything else is tried again, and after --max-attempts the request goes
    to the rejected topic with the error. Nothing is lost when the worker dies; the jobs that ran are run again.
    SIGTERM and Ctrl-C let running commands finish, a second one kills them.

    Example: `gate worker payments --concurrency 4 -- ./pay.sh --quick`

    Parameters
    ----------
    service
        The service.
    command
        The program and its arguments, after `--`.
    group
        Consumer group; workers of one group share the work. By default SERVICE-workers.
    concurrency
        How many commands run at a time.
    max_attempts
        How often a request is tried.
    """
    log_to_stderr(logging.INFO)
    client = client or Client()
    if shutil.which(command[0]) is None:
        raise GateError(
            f"there is no program {command[0]!r}", hint="check its name, its path and that it is executable"
        )
    program = Worker(
        client.bootstrap,
        group_id=group or f"{service}-workers",
        names=client.names,
        concurrency=concurrency,
        retry=Retry(attempts=max_attempts),
        connect_seconds=client.connect_timeout,
    )
    program.handler(service)(run_command(command))
    program.main()
