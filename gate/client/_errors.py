"""The errors of the client that more than one of its parts raises; all derive from GateError and carry a hint."""

from gate.errors import ArgumentError, GateError
from gate.kafka.connect import BrokerUnreachableError

__all__ = ["ArgumentError", "BrokerUnreachableError", "NotConnectedError", "UnknownServiceError"]


class NotConnectedError(GateError, RuntimeError):
    """A call outside of the `with` block that connects."""

    def __init__(self, name: str, *, sync: bool = False) -> None:
        super().__init__(
            f"the {name} is not connected", hint=f"use it as `{'' if sync else 'async '}with {name}(...) as ...`"
        )


class UnknownServiceError(GateError):
    """A service that no gate knows."""
