"""Token bucket, sliding window, calendar quota and what describes a limit; integers, no clock, no I/O."""

from gate.limits.concurrency import InFlight, Running
from gate.limits.errors import StateError
from gate.limits.limiter import Limiter
from gate.limits.quota import Per, Quota
from gate.limits.rates import parse_rate
from gate.limits.spec import NEVER, Spec, Window

__all__ = ["NEVER", "InFlight", "Limiter", "Per", "Quota", "Running", "Spec", "StateError", "Window", "parse_rate"]
