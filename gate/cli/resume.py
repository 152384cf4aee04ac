"""`gate resume`."""

from functools import partial

from gate.cli.client import Client, Service
from gate.cli.pause import Tenant, command, who
from gate.client import GateControl


def resume(service: Service, *, tenant: Tenant = None, reason: str = "", client: Client | None = None) -> None:
    """End the pause of a service, or of one of its tenants, now.

    Example: `gate resume payments`

    Parameters
    ----------
    service
        The service.
    tenant
        Only the pause of this tenant.
    reason
        Why, for whoever reads the control topic.
    """
    command(client or Client(), partial(GateControl.resume, service=service, tenant=tenant or "", reason=reason))
    print(f"{who(service, tenant)} goes on")
