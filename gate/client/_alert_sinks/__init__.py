"""Ready places for alerts to go to."""

from gate.client._alert_sinks.alertmanager import Alertmanager
from gate.client._alert_sinks.console import Console
from gate.client._alert_sinks.mail import Mail
from gate.client._alert_sinks.sink import LaterError, RefusedError, Sink
from gate.client._alert_sinks.slack import Slack
from gate.client._alert_sinks.webhook import Webhook

__all__ = ["Alertmanager", "Console", "LaterError", "Mail", "RefusedError", "Sink", "Slack", "Webhook"]
