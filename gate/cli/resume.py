"""`gate resume`."""

from functools import partial

from gate.cli.client import Client, Flag, Service
from gate.cli.output import tell
from gate.cli.pause import Tenant, command, who
from gate.client import GateControl


def resume(
    service: Service, *, tenant: Tenant = None, reason: str = "", json: Flag = False, client: Client | None = None
) -> None:
    """End the pause of a service, or of one of its tenants, now.

    Example: `gate resume payments`

    Parameters
    ----------
    service
        The service.
    tenant
        Only the pause of this tenant.
    reason
        Why, for the audit.
    json
        Print one JSON object: service, tenant (null: all), command_id.
    """
    known = command(
        client or Client(), partial(GateControl.resume, service=service, tenant=tenant or "", reason=reason)
    )
    tell(f"{who(service, tenant)} goes on", json=json, service=service, tenant=tenant, command_id=known)
