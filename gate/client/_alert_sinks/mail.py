"""Alerts as e-mails, over SMTP."""

import asyncio
import hashlib
import smtplib
import socket
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from gate.client._alert import Alert
from gate.client._alert_sinks.sink import RefusedError, Sink
from gate.client._errors import ArgumentError
from gate.protocol.alert_types import (
    CLOCK_SKEWED,
    NEAR_LIMIT,
    ONGOING,
    OPENED,
    OWNER_AWAY,
    POLICY_ACCEPTED,
    RESOLVED,
    RESUMED,
    WAITING,
)
from gate.text import printable, timestamp

_SECONDS: Final = 20.0
_SUBJECTS: Final = {
    OPENED: "over its limit", ONGOING: "still over its limit", RESOLVED: "within its limits again",
    NEAR_LIMIT: "near its limit", WAITING: "has a partition that stands", RESUMED: "has a partition that goes on again",
    POLICY_ACCEPTED: "has its policy in force again", CLOCK_SKEWED: "has a host whose clock is off",
    OWNER_AWAY: "had no owner of its limit",
}  # fmt: skip


class Mail(Sink):
    """Sends each alert as an e-mail of plain text.

    The `Message-ID` is made of the alert's id, so that one that comes twice is shown once; all mails of a breach are
    one thread. With `tls` "starttls" or "implicit" the server's certificate is checked; a password is sent over TLS
    only.
    """

    def __init__(
        self,
        host: str,
        port: int = 25,
        *,
        to: Sequence[str],
        sender: str | None = None,
        tls: str | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        if not to:
            raise ArgumentError("nobody is named to mail alerts to", hint="give addresses with to=")
        if tls not in {None, "starttls", "implicit"}:
            raise ArgumentError(f"tls is {tls!r}", hint="it is 'starttls' or 'implicit'")
        if password is not None and tls is None:
            raise ArgumentError("a password goes over TLS only", hint="set tls to 'starttls' or 'implicit'")
        self._host = host
        self._port = port
        self._to = tuple(to)
        self._sender = sender or f"gate@{socket.gethostname()}"
        self._tls = tls
        self._user = user
        self._password = password

    async def deliver(self, alert: Alert) -> None:
        """Send one alert. A server that calls it wrong for good (5xx to its content) refuses it."""
        await asyncio.to_thread(self._send, self._message(alert))

    def _send(self, message: EmailMessage) -> None:
        context = ssl.create_default_context() if self._tls else None
        name = socket.gethostname()  # smtplib would ask the DNS for it, each time
        connection = (
            smtplib.SMTP_SSL(self._host, self._port, local_hostname=name, timeout=_SECONDS, context=context)
            if self._tls == "implicit"
            else smtplib.SMTP(self._host, self._port, local_hostname=name, timeout=_SECONDS)
        )
        with connection as server:
            if self._tls == "starttls":
                server.starttls(context=context)
            if self._user is not None:
                server.login(self._user, self._password or "")
            try:
                server.send_message(message)
            except smtplib.SMTPDataError as error:
                if error.smtp_code >= 500:
                    raise RefusedError(f"the mail server answered {error.smtp_code}") from error
                raise

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        about = _SUBJECTS.get(alert.type, alert.type)
        message["Subject"] = printable(f"[gate] {alert.service or 'gate'} {about}", 200)
        message["From"] = self._sender
        message["To"] = ", ".join(self._to)
        message["Date"] = format_datetime(alert.time)
        message["Message-ID"] = _message_id(alert.id)
        if alert.type in _SUBJECTS and alert.type not in {NEAR_LIMIT, CLOCK_SKEWED, OWNER_AWAY}:
            thread = _message_id(f"{alert.event.get_source()} {timestamp(alert.since)}")
            message["References"] = thread
        message["X-Gate-Alert"] = alert.type
        rows = {"what": alert.type, "service": alert.service, "since": timestamp(alert.since), "": alert.summary()}
        lines = [f"{name:8} {printable(value)}" for name, value in rows.items() if value]
        message.set_content("\n".join([*lines, "", alert.to_json()]) + "\n", cte="base64")
        return message


def _message_id(text: str) -> str:
    return f"<{hashlib.sha256(text.encode()).hexdigest()[:40]}@gate>"
