"""`gate move`."""

from typing import Annotated

from cyclopts import CycloptsError, Parameter

from gate.cli.backlog import Which, end, follow
from gate.cli.client import Client, Flag, Service
from gate.client import GateControl


def move(
    service: Service,
    *,
    to: Annotated[str, Parameter(name="--to")] = "",
    which: Which | None = None,
    dry_run: Flag = False,
    reason: str = "",
    abort: str = "",
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Put requests that wait into another lane, each where it would be had it come there.

    What waits when the owner takes the command is meant, and nothing that comes later.

    Example: `gate move payments --to batch --tenant acme`

    Parameters
    ----------
    service
        The service.
    to
        The lane, one of the service's `priorities`.
    dry_run
        Only count what would be moved.
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
    if not to:
        raise CycloptsError(msg="nothing says where to: give --to LANE")
    wanted = (which or Which()).filter
    follow(
        client,
        lambda control, told, known: GateControl.move(
            control, service, wanted, to, reason=reason, dry_run=dry_run, on_answer=told, command_id=known,
        ),
        "move", service, "moved", dry_run=dry_run, as_json=json,
    )  # fmt: skip
