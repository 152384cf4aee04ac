"""Forecast of what requests in topics will have of one budget, if everybody goes on to want what he wants now."""

from typing import NamedTuple

from gate.limits.part import UNIT
from gate.mesh.budget import FOREVER, Budget
from gate.mesh.division import fill
from gate.mesh.grants import CREDIT
from gate.mesh.ledger import Ledger
from gate.mesh.terms import slower


class _Bucket(NamedTuple):
    """A part of a bucket, as it drips."""

    ticks: int  # that there are
    nano: int

    def time_of(self, now: int, units: int) -> int:
        return now - (-max(0, units * UNIT - self.ticks) // self.nano)


class _Window(NamedTuple):
    """A window, of whose units that no longer count a part of `share` in `whole` is for requests in topics."""

    ledger: Ledger
    limit: int  # of them, in the long run
    free: int  # below 0 where more counts than may
    share: int
    whole: int

    def time_of(self, now: int, units: int) -> int:
        rounds, rest = divmod(units - 1, self.limit)  # what goes now comes free again a window later
        lack = -(-max(0, rest + 1 - self.free) * self.whole // self.share)
        freed = self.ledger.freed(lack) if lack else now
        return rounds * self.ledger.size + (now + self.ledger.size if freed is None else freed)


class QueueForecast:
    """When requests in topics that want so much will have had so many units of a budget.

    Each limit is looked at by itself. A part that is still on its way counts as if it were there.
    """

    def __init__(self, budget: Budget, now: int, want: int) -> None:
        """Take the division that comes of a `want` of requests in topics, in units per 1,000 s."""
        parts, grants = budget.parts, budget.grants
        self._now = max(now, budget.paused_until) if budget.paused_until < FOREVER else now
        wants = [max(1, want, budget.queue_want), budget.asks.want, *[held.want for held in budget.held.values()]]
        self._bucket: _Bucket | None = None
        self._windows: list[_Window] = []
        if any(parts.whole):
            share, whole = _share(parts.flow, wants)
            account = parts.account
            if parts.bucket:
                ticks = account.burst * UNIT - max(0, account.full - now * account.nano)
                self._bucket = _Bucket(ticks, max(1, slower(parts.whole[0] * share // whole)))
            for ledger, limit in zip(parts.expired(now), parts.whole[2:], strict=True):
                mine = max(1, limit * share // whole)
                self._windows.append(_Window(ledger, mine, max(ledger.room(now), mine - ledger.counted), 1, 1))
        for ledger, debt in zip(grants.longs, grants.debts(now), strict=False):
            share, whole = _share(ledger.limit * CREDIT // ledger.size, wants)
            self._windows.append(_Window(ledger, max(1, ledger.limit * share // whole), -debt, share, whole))

    def time_of(self, units: int) -> int:
        """Return when they will have had so many, counted from now; ns by the shard's clock."""
        times = [window.time_of(self._now, units) for window in self._windows]
        if self._bucket is not None:
            times.append(self._bucket.time_of(self._now, units))
        return max(times, default=self._now)


def _share(flow: int, wants: list[int]) -> tuple[int, int]:
    """Return the part of requests in topics, the first of those who want, and of how many it is."""
    amounts = fill(max(1, flow), wants)
    return max(1, amounts[0]), max(1, sum(amounts))
