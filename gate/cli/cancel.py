"""`gate cancel`."""

from cyclopts import CycloptsError

from gate.cli.backlog import Which, end, follow
from gate.cli.client import Client, Flag, Service
from gate.client import GateControl


def cancel(
    service: Service,
    *,
    which: Which | None = None,
    dry_run: Flag = False,
    reason: str = "",
    abort: str = "",
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Reject requests that wait, with reason=cancelled; they take nothing of the limits.

    What waits when the owner takes the command is meant, and nothing that comes later. It is carried out in small
    batches beside all other work, each exactly once, whatever is killed. A filter that fits nothing is refused.

    Example: `gate cancel payments --tenant acme --reason "they have left us"`

    Parameters
    ----------
    service
        The service.
    dry_run
        Only count what would be cancelled.
    reason
        Why, for the audit. Required, as what is cancelled is lost.
    abort
        End the command of this id instead; what it has done stays done.
    json
        Print the last answer as JSON.
    """
    if abort:
        end(client, service, abort, reason, as_json=json)
        return
    if not (reason or dry_run):
        raise CycloptsError(msg="what is cancelled is lost: say why with --reason TEXT, or look with --dry-run")
    wanted = (which or Which()).filter
    follow(
        client,
        lambda control, told, known: GateControl.cancel(
            control, service, wanted, reason=reason, dry_run=dry_run, on_answer=told, command_id=known,
        ),
        "cancel", service, "cancelled", dry_run=dry_run, as_json=json,
    )  # fmt: skip
