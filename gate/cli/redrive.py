"""`gate redrive`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from cyclopts import Parameter

from gate.cli.backlog import Which, end, follow
from gate.cli.client import Client, Duration, Flag, Service, read_seconds
from gate.client import GateControl

REJECTED: Final = "rejected"


def redrive(
    service: Service,
    *,
    source: Annotated[str, Parameter(name="--from")] = REJECTED,
    since: Annotated[Duration | None, Parameter(converter=read_seconds)] = None,
    which: Which | None = None,
    dry_run: Flag = False,
    reason: str = "",
    abort: str = "",
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Put what was rejected, dead letters among it, or a part of a topic, back into the service.

    Key, value, headers, tenant and attempts are as they were; the id is a new one, and the stamp names the first one as
    origin. What is there when the owner takes the command is meant, each once, whatever is killed. What goes back
    stays where it was, too: say --since, or a filter, not to put it back twice.

    Example: `gate redrive payments --since 2h --all --reason "the bank is up again"`

    Parameters
    ----------
    service
        The service.
    source
        `rejected`, or a topic, whose records may be anybody's.
    since
        Only the last so long, by Kafka's timestamp: 90s, 15m, 2h. With --older-than up to then.
    dry_run
        Only count what would go back.
    reason
        Why, for the audit.
    abort
        End the command of this id instead; what it has done stays done.
    json
        Print the last answer as JSON.
    """
    if abort:
        end(client, service, abort, reason, as_json=json)
        return
    wanted, topic = (which or Which()).filter, "" if source == REJECTED else source
    first = None if since is None else datetime.now(UTC) - timedelta(seconds=since)
    follow(
        client,
        lambda control, told, known: GateControl.redrive(
            control, service, wanted, topic, since=first, reason=reason, dry_run=dry_run, on_answer=told,
            command_id=known,
        ),
        "redrive", service, "put back", dry_run=dry_run, as_json=json,
    )  # fmt: skip
