"""The sink: where alerts go."""

from abc import ABC, abstractmethod

from gate.client._alert import Alert
from gate.errors import GateError


class Sink(ABC):
    """Where alerts go.

    `deliver` returns when the alert has arrived. What it raises is told in the log, and it is tried again after a
    pause, for as long as it takes, with two exceptions: LaterError says when to try again, and RefusedError never to.
    """

    @abstractmethod
    async def deliver(self, alert: Alert) -> None:
        """Deliver one alert."""

    async def aclose(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what the sink holds; called once, at the end."""


class LaterError(GateError):
    """A receiver that said when to come back."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class RefusedError(GateError):
    """The receiver calls the alert itself wrong. It would be refused again, so it is told in the log and left out."""
