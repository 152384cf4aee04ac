"""Limits that many processes share, over Kafka: each decides by itself about what it holds, and together never over.

The shell of `gate.mesh`: the gates' owners divide, this holds. `DistributedRateLimiter` is for asyncio,
`SyncDistributedRateLimiter` for threads.
"""

from gate.distributed.limiter import DistributedRateLimiter
from gate.distributed.shared import OnOwnerAway
from gate.distributed.sync import SyncDistributedRateLimiter

__all__ = ["DistributedRateLimiter", "OnOwnerAway", "SyncDistributedRateLimiter"]
