"""Token bucket, sliding window and calendar quota as integer mathematics; no clock, no I/O."""

from gate.limits.errors import StateError
from gate.limits.limiter import Limiter
from gate.limits.quota import Per, Quota
from gate.limits.rates import parse_rate
from gate.limits.spec import NEVER, Spec, Window

__all__ = ["NEVER", "Limiter", "Per", "Quota", "Spec", "StateError", "Window", "parse_rate"]
