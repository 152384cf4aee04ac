"""Who is measured: what of servers each needs, and how it is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    kind: str  # of bench.mesh.callers
    needs: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    over_redis: bool = False
    shared: bool = True  # else it is ours within one process


GATE: Final = Contender("gate", "gate", ("broker", "gate"))
LOCAL: Final = Contender("RateLimiter", "local", shared=False)
_GLOBAL: Final = 2  # of gubernator's behaviours: answers from a copy, tells the owner after a while
PEERS: Final = (
    Contender("limits/fixed", "limits", ("redis",), {"using": "FixedWindowRateLimiter"}, over_redis=True),
    Contender("limits/moving", "limits", ("redis",), {"using": "MovingWindowRateLimiter"}, over_redis=True),
    Contender("throttled-py/fixed", "throttled", ("redis",), {"using": "fixed_window"}, over_redis=True),
    Contender("throttled-py/sliding", "throttled", ("redis",), {"using": "sliding_window"}, over_redis=True),
    Contender("envoyproxy/ratelimit", "ratelimit", ("redis", "ratelimit"), over_redis=True),
    Contender("gubernator", "gubernator", ("gubernator",), {"behavior": 0}),
    Contender("gubernator/global", "gubernator", ("gubernator",), {"behavior": _GLOBAL}),
)
ALL: Final = (GATE, LOCAL, *PEERS)
