"""The client of the gate: everything that a program on its other side needs.

Workers do what was admitted, job clients submit and follow, pacers hold pipelines back, alert consumers carry what the
gate says, and controls pause, resume and cancel. A class `X` is for asyncio; `SyncX` is the same without an event loop.
All begin with the broker's address, and take `prefix` and `connect_timeout`; in place of the address they take a whole
`Connection`, as `Connection.load("policy.yaml")` reads it. The modules behind this one are internal.
"""

from gate.client._alert import Alert
from gate.client._alert_sinks import Alertmanager, Console, Mail, Slack, Webhook
from gate.client._alert_sinks.receiver import ReceiverError
from gate.client._alert_sinks.sink import LaterError, RefusedError, Sink
from gate.client._alert_sinks.webhook import verify
from gate.client._alerts import Alerts
from gate.client._answers import CommandRefusedError
from gate.client._control import GateControl, SyncGateControl
from gate.client._delivery import Pauses
from gate.client._errors import ArgumentError, BrokerUnreachableError, NotConnectedError, UnknownServiceError
from gate.client._filter import Filter
from gate.client._handlers import CommandError, HandlerTimeoutError, Job, command
from gate.client._jobs.client import JobClient, SubmitError
from gate.client._jobs.sync import SyncJobClient, SyncTicket
from gate.client._jobs.ticket import Decision, JobFailedError, JobRejectedError, NoAnswerError, Ticket, Verdict
from gate.client._pacing import Pacer, SyncPacer
from gate.client._policies import ServiceLimits
from gate.client._retry import Backoff, Retry
from gate.client._sender import TooLargeError
from gate.client._throttle import Estimate
from gate.client._worker import Worker
from gate.config import Connection
from gate.errors import GateError, UnknownRequestError
from gate.protocol.answers import Answer, AnswerState
from gate.protocol.policies import LiveLimit

__all__ = [
    "Alert",
    "Alertmanager",
    "Alerts",
    "Answer",
    "AnswerState",
    "ArgumentError",
    "Backoff",
    "BrokerUnreachableError",
    "CommandError",
    "CommandRefusedError",
    "Connection",
    "Console",
    "Decision",
    "Estimate",
    "Filter",
    "GateControl",
    "GateError",
    "HandlerTimeoutError",
    "Job",
    "JobClient",
    "JobFailedError",
    "JobRejectedError",
    "LaterError",
    "LiveLimit",
    "Mail",
    "NoAnswerError",
    "NotConnectedError",
    "Pacer",
    "Pauses",
    "ReceiverError",
    "RefusedError",
    "Retry",
    "ServiceLimits",
    "Sink",
    "Slack",
    "SubmitError",
    "SyncGateControl",
    "SyncJobClient",
    "SyncPacer",
    "SyncTicket",
    "Ticket",
    "TooLargeError",
    "UnknownRequestError",
    "UnknownServiceError",
    "Verdict",
    "Webhook",
    "Worker",
    "command",
    "verify",
]
