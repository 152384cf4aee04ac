"""Ready places for alerts to go to."""

from gate.client._sinks.alertmanager import Alertmanager
from gate.client._sinks.console import Console
from gate.client._sinks.mail import Mail
from gate.client._sinks.sink import LaterError, RefusedError, Sink
from gate.client._sinks.slack import Slack
from gate.client._sinks.webhook import Webhook

__all__ = ["Alertmanager", "Console", "LaterError", "Mail", "RefusedError", "Sink", "Slack", "Webhook"]
