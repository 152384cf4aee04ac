"""Shared limits: what stands in for limits of their own where a service has more tenants than it tells apart.

A tenant beyond the bound takes one of `SLOTS` by a hash of its name. Which globs of the policy match it is a part of
the shared limit's name: only those to whom the same rules apply share one.
"""

import hashlib
from typing import Final

SLOTS: Final = 1024
_MARK: Final = "\x1f"  # a control character: no tenant of a request has one in its name


def slot_of(tenant: str, service: str, salt: int) -> str:
    """Return the slot of a tenant."""
    key = f"{salt}/{service}".encode()[:64]
    digest = hashlib.blake2b(tenant.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
    return f"{int.from_bytes(digest) % SLOTS}"


def shared_name(slot: str, globs: tuple[str, ...]) -> str:
    """Return under which name a shared limit is kept among those of tenants."""
    return _MARK + _MARK.join((slot, *globs))


def is_shared(name: str) -> bool:
    """Tell whether a name is that of a shared limit."""
    return name[:1] == _MARK


def parts_of(name: str) -> tuple[str, tuple[str, ...]]:
    """Return slot and globs of a shared limit."""
    slot, *globs = name[1:].split(_MARK)
    return slot, tuple(globs)


def label(name: str) -> str:
    """Return how stamps and messages call a tenant's limit, behind the service's name."""
    return f"shared-tenants.{parts_of(name)[0]}" if is_shared(name) else f"tenant.{name}"
