"""Share of a tenant's requests in limits that calls in processes have a part of."""

from typing import Protocol


class CallShare(Protocol):
    """What calls in processes leave to the requests of one tenant of the same limits, which are the tenant's own."""

    def offer(self, now: int, units: int) -> None:
        """Note how many units came."""

    def fit(self, now: int, count: int, cost: int) -> int:
        """Return how many of `count` requests may go now."""

    def charge(self, now: int, count: int, cost: int) -> None:
        """Count requests that go."""

    def ready_at(self, now: int, cost: int) -> int:
        """Return when a further request may go, or when to look again."""
