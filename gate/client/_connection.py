"""The first arguments that every class of the client is given, read as one connection."""

from math import inf
from typing import Final

from gate.client._errors import ArgumentError
from gate.config import Connection

PREFIX: Final = "gate"
CONNECT_TIMEOUT: Final = 30.0  # seconds


def connection(bootstrap: str | Connection, prefix: str, connect_timeout: float) -> Connection:
    """Check what a user gave. Raises ArgumentError, and TopicNameError for a prefix that Kafka would refuse."""
    if not isinstance(bootstrap, Connection):
        return Connection(bootstrap, prefix=prefix, connect_timeout=connect_timeout)
    if (prefix, connect_timeout) != (PREFIX, CONNECT_TIMEOUT):
        raise ArgumentError(
            "prefix or connect_timeout is given beside a Connection, which has its own",
            hint="say them where the Connection is made",
        )
    return bootstrap


def positive(**seconds: float | None) -> None:
    """Raise ArgumentError for a length of time that is none; None is allowed, and means that there is no bound."""
    for name, value in seconds.items():
        if value is not None and not 0 < value < inf:
            raise ArgumentError(f"{name} is {value}", hint=f"{name} is a number of seconds above 0")
