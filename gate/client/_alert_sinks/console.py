"""Alerts as lines of text, or as JSON lines."""

import sys
from typing import TextIO

from gate.client._alert import Alert
from gate.client._alert_sinks.sink import Sink


class Console(Sink):
    """Prints a line per alert: for people, or the CloudEvent as JSON."""

    def __init__(self, *, as_json: bool = False, file: TextIO | None = None) -> None:
        self._as_json = as_json
        self._file = file or sys.stdout

    async def deliver(self, alert: Alert) -> None:
        """Print one alert."""
        print(alert.to_json() if self._as_json else str(alert), file=self._file, flush=True)
