"""`gate resume`."""

from gate.cli.client import Client, Service
from gate.cli.pause import Tenant, command, who
from gate.protocol import control


def resume(service: Service, *, tenant: Tenant = None, client: Client | None = None) -> None:
    """End the pause of a service, or of one of its tenants, now.

    Example: `gate resume payments`

    Parameters
    ----------
    service
        The service.
    tenant
        Only the pause of this tenant.
    """
    command(client or Client(), service, control.Resume(tenant or ""))
    print(f"{who(service, tenant)} goes on")
