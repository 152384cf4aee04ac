"""Errors of stored limiter state."""

from gate.errors import GateError


class StateError(GateError, ValueError):
    """Bytes that are no limiter state, are damaged, or were written by a newer version."""
