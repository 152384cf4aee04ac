"""What a sink is."""

from typing import Protocol

from gate.client.alert import Alert
from gate.errors import GateError


class Sink(Protocol):
    """Where alerts go.

    `take` delivers one alert and returns when it has arrived. What it raises is told in the log and tried again after
    a pause, for as long as it takes, with two exceptions: see below.
    """

    async def take(self, alert: Alert) -> None:
        """Deliver one alert."""


class LaterError(GateError):
    """A receiver that said when to come back."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class RefusedError(GateError):
    """The receiver calls the alert itself wrong. It would be refused again, so it is told in the log and left out."""
