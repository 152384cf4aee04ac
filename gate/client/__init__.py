"""The client of the gate: everything that a program on its other side needs.

Workers do what was admitted, job clients submit and follow, pacers hold pipelines back, alert consumers carry what the
gate says, and controls pause and resume. A class `X` is for asyncio; `SyncX` is the same without an event loop. All
begin with the broker's address, and take `prefix` and `connect_timeout`.
"""

from gate.client.alert import Alert
from gate.client.alerts import Alerts
from gate.client.control import GateControl, SyncGateControl
from gate.client.delivery import Pauses
from gate.client.errors import ArgumentError, BrokerUnreachableError, NotConnectedError, UnknownServiceError
from gate.client.handlers import CommandError, HandlerTimeoutError, Job, command
from gate.client.jobs.client import JobClient, SubmitError
from gate.client.jobs.sync import SyncJobClient, SyncTicket
from gate.client.jobs.ticket import Decision, JobFailedError, JobRejectedError, NoAnswerError, Ticket, Verdict
from gate.client.pacing import Pacer, SyncPacer
from gate.client.retry import Backoff, Retry
from gate.client.sender import TooLargeError
from gate.client.sinks import Alertmanager, Console, Mail, Slack, Webhook
from gate.client.sinks.receiver import ReceiverError
from gate.client.sinks.sink import LaterError, RefusedError, Sink
from gate.client.sinks.webhook import verify
from gate.client.throttle import Estimate
from gate.client.worker import Worker
from gate.errors import GateError

__all__ = [
    "Alert",
    "Alertmanager",
    "Alerts",
    "ArgumentError",
    "Backoff",
    "BrokerUnreachableError",
    "CommandError",
    "Console",
    "Decision",
    "Estimate",
    "GateControl",
    "GateError",
    "HandlerTimeoutError",
    "Job",
    "JobClient",
    "JobFailedError",
    "JobRejectedError",
    "LaterError",
    "Mail",
    "NoAnswerError",
    "NotConnectedError",
    "Pacer",
    "Pauses",
    "ReceiverError",
    "RefusedError",
    "Retry",
    "Sink",
    "Slack",
    "SubmitError",
    "SyncGateControl",
    "SyncJobClient",
    "SyncPacer",
    "SyncTicket",
    "Ticket",
    "TooLargeError",
    "UnknownServiceError",
    "Verdict",
    "Webhook",
    "Worker",
    "command",
    "verify",
]
