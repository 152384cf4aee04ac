"""`gate expedite`."""

from gate.cli.backlog import Which, end, follow
from gate.cli.client import Client, Flag, Service
from gate.client import GateControl


def expedite(
    service: Service,
    *,
    which: Which | None = None,
    dry_run: Flag = False,
    reason: str = "",
    abort: str = "",
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Let requests that wait go next, ahead of all others, as far as the limits allow.

    They are charged as always, so that no limit is exceeded: whoever else waits goes later by that. What waits when
    the owner takes the command is meant, and nothing that comes later.

    Example: `gate expedite payments --producer-id order-4711 --reason "the customer waits on the phone"`

    Parameters
    ----------
    service
        The service.
    dry_run
        Only count what would go next.
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
    wanted = (which or Which()).filter
    follow(
        client,
        lambda control, told, known: GateControl.expedite(
            control, service, wanted, reason=reason, dry_run=dry_run, on_answer=told, command_id=known,
        ),
        "expedite", service, "expedited", dry_run=dry_run, as_json=json,
    )  # fmt: skip
