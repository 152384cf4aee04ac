"""Ready places for alerts to go to."""

from gate.client.sinks.alertmanager import Alertmanager
from gate.client.sinks.console import Console
from gate.client.sinks.mail import Mail
from gate.client.sinks.sink import LaterError, RefusedError, Sink
from gate.client.sinks.slack import Slack
from gate.client.sinks.webhook import Webhook

__all__ = ["Alertmanager", "Console", "LaterError", "Mail", "RefusedError", "Sink", "Slack", "Webhook"]
