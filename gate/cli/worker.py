"""`gate worker`."""

import logging
import shutil
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from gate.cli.client import Client, Flag, Seconds, Service, log_to_stderr
from gate.client import Retry, Worker
from gate.client import command as run_command
from gate.errors import GateError
from gate.protocol.feedback import LONGEST_BACKOFF


def worker(
    service: Service,
    command: Annotated[list[str], Parameter(negative="")],
    *,
    group: str | None = None,
    concurrency: Annotated[int, Parameter(validator=Number(gte=1, lte=1000))] = 10,
    by_key: Flag = False,
    max_attempts: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    timeout: Seconds | None = None,
    results: Flag = False,
    backoff: Annotated[Seconds, Parameter(validator=Number(gte=1, lte=LONGEST_BACKOFF))] = 30.0,
    max_backoffs: Annotated[int, Parameter(validator=Number(gte=0))] = 100,
    pass_env: Annotated[list[str] | None, Parameter(negative="")] = None,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Run a command for each admitted request of a service.

    The command gets the payload on its stdin; GATE_ID, GATE_KEY, GATE_ATTEMPT and a GATE_HEADER_NAME per header are
    in its environment. Exit code 0 means done. Exit code 75 asks to leave the service alone: the gate is told to admit
    nothing for --backoff. After anything else the request is submitted to the gate again, a little later each
    time; after --max-attempts it goes to the rejected topic with the error. Nothing is lost when the worker dies; the
    jobs that ran are run again.
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
    by_key
        Run requests with the same key one after another, in the order of their admission.
    max_attempts
        How often a request is tried.
    timeout
        How long a command may run; then it is killed, and has failed.
    results
        Write what the command prints to the results topic, under the request's id.
    backoff
        How long to leave the service alone when the command exits with 75.
    max_backoffs
        How often a request is put off by that; asked once more, it goes to the rejected topic.
    pass_env
        A secret variable, such as GATE_SASL_PASSWORD, that the command gets nevertheless; may be given several times.
        Without, the worker's GATE_ passwords, secrets and tokens are taken out of its environment.
    json
        Write the log on stderr as JSON: an object per line, with timestamp, level, event and what it is about.
    """
    log_to_stderr(logging.INFO, json=json)
    client = client or Client()
    if shutil.which(command[0]) is None:
        raise GateError(
            f"there is no program {command[0]!r}", hint="check its name, its path and that it is executable"
        )
    program = Worker(
        client.connection,
        group_id=group or f"{service}-workers",
        concurrency=concurrency,
        ordered="key" if by_key else None,
        retry=Retry(attempts=max_attempts, backoffs=max_backoffs),
        timeout=timeout,
        results=results,
    )
    program.handler(service)(run_command(command, answers=results, backoff=backoff, pass_env=pass_env or ()))
    program.main()
