"""Token bucket and sliding window as integer mathematics; no clock, no I/O."""

from gate.limits.errors import StateError
from gate.limits.limiter import Limiter
from gate.limits.rates import parse_rate
from gate.limits.spec import NEVER, Spec, Window

__all__ = ["NEVER", "Limiter", "Spec", "StateError", "Window", "parse_rate"]
