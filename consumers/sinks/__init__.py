"""Ready places for alerts to go to."""

from consumers.sinks.alertmanager import Alertmanager
from consumers.sinks.console import Console
from consumers.sinks.mail import Mail
from consumers.sinks.sink import LaterError, RefusedError, Sink
from consumers.sinks.slack import Slack
from consumers.sinks.webhook import Webhook

__all__ = ["Alertmanager", "Console", "LaterError", "Mail", "RefusedError", "Sink", "Slack", "Webhook"]
