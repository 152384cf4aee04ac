"""`gate alerts`."""

import logging
from typing import Annotated, Literal

import httpx
from cyclopts import CycloptsError, Parameter

from gate.cli.client import Client, Flag, log_to_stderr
from gate.cli.secrets import secret
from gate.client import Alertmanager, Alerts, ArgumentError, Console, Mail, Sink, Slack, Webhook


def _is_url(_type: object, value: str | None) -> None:
    if value is None:
        return
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL as error:
        raise ValueError(f"{value!r} is no URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"{value!r} is no URL; give one like https://example.com/hook")


def _is_address(_type: object, value: str | None) -> None:
    if value is not None:
        _address(value)


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{value!r} is no address of a mail server; give HOST:PORT")
    return host, int(port)


_Url = Annotated[str | None, Parameter(validator=_is_url)]


def alerts(
    *,
    webhook: _Url = None,
    webhook_secret: Annotated[str | None, Parameter(env_var="GATE_WEBHOOK_SECRET")] = None,
    slack: Annotated[str | None, Parameter(env_var="GATE_SLACK_URL", validator=_is_url)] = None,
    alertmanager: _Url = None,
    smtp: Annotated[str | None, Parameter(validator=_is_address)] = None,
    mail_to: Annotated[list[str] | None, Parameter(negative="")] = None,
    mail_from: str | None = None,
    smtp_tls: Literal["starttls", "implicit"] | None = None,
    smtp_user: Annotated[str | None, Parameter(env_var="GATE_SMTP_USER")] = None,
    smtp_password: Annotated[str | None, Parameter(env_var="GATE_SMTP_PASSWORD")] = None,
    type: Annotated[list[str] | None, Parameter(negative="")] = None,  # noqa: A002 - the name of the option
    service: str = "*",
    json: Flag = False,
    group: str = "gate-alerts",
    from_beginning: Flag = False,
    client: Client | None = None,
) -> None:
    """Print alerts as they come, and carry them to where somebody looks.

    Every receiver gets each alert at least once, with an id that stays the same. While one is down, the others go on;
    what it missed waits in Kafka and is delivered later, also after a restart.

    Example: `gate alerts --alertmanager http://localhost:9093 --webhook https://example.com/hook`

    Example: `gate alerts --smtp mail.example.com:25 --mail-to ops@example.com --type "gate.breach.*" --service "pay*"`

    Parameters
    ----------
    webhook
        Post each alert to this URL, as a CloudEvent in JSON.
    webhook_secret
        Sign what is posted to the webhook (HMAC-SHA256, as in Standard Webhooks). By GATE_WEBHOOK_SECRET, or @FILE: on
        the command line everybody on this host can read it.
    slack
        Incoming webhook of Slack or another chat that takes the same.
    alertmanager
        URL of a Prometheus Alertmanager.
    smtp
        Mail server, HOST:PORT.
    mail_to
        Recipient; may be given several times.
    mail_from
        Sender; by default gate@ this host.
    smtp_tls
        Speak TLS to the mail server, and check its certificate.
    smtp_user
        User name at the mail server.
    smtp_password
        Password; over TLS only. By GATE_SMTP_PASSWORD, or @FILE.
    type
        Only alerts of this type, which may be a glob; may be given several times.
    service
        Only alerts about this service, which may be a glob.
    json
        Print each alert as a CloudEvent in JSON, one per line.
    group
        What the consumer groups begin with, which remember what was delivered: one per receiver.
    from_beginning
        Begin with the oldest alert, if the group is new. By default a new group gets alerts from now on.
    """
    log_to_stderr(logging.WARNING)
    client = client or Client()
    sinks: list[Sink] = [Console(as_json=json)]
    if webhook is not None:
        signed = secret("--webhook-secret", "GATE_WEBHOOK_SECRET", webhook_secret)
        try:
            sinks.append(Webhook(webhook, secret=signed))
        except ArgumentError as error:
            raise CycloptsError(msg=f"--webhook-secret: {error}; {error.hint}") from error
    if slack is not None:
        sinks.append(Slack(slack))
    if alertmanager is not None:
        sinks.append(Alertmanager(alertmanager))
    if (smtp is None) is not (mail_to is None):
        raise CycloptsError(msg="alerts by e-mail need a mail server and somebody to mail to: --smtp and --mail-to")
    if smtp is not None and mail_to is not None:
        host, port = _address(smtp)
        smtp_password = secret("--smtp-password", "GATE_SMTP_PASSWORD", smtp_password)
        try:
            mail = Mail(host, port, to=mail_to, sender=mail_from, tls=smtp_tls, user=smtp_user, password=smtp_password)
        except ArgumentError as error:
            raise CycloptsError(msg=f"{error}; {error.hint}") from error
        sinks.append(mail)
    program = Alerts(
        client.connection,
        group_id=group,
        from_beginning=from_beginning,
    )
    for sink in sinks:
        program.add(sink, *(type or ()), service=service)
    program.main()
