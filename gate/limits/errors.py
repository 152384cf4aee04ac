"""Errors of stored limiter state, and for who waits in vain."""

from gate.errors import GateError


class StateError(GateError, ValueError):
    """Bytes that are no limiter state, are damaged, or were written by a newer version."""


class NeverAdmittedError(GateError, ValueError):
    """A request that no waiting helps: it costs more than its limits ever give at once, or has none where it must."""
