"""Alerts as CloudEvents over HTTP, signed as in the Standard Webhooks specification (standardwebhooks.com)."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import httpx
from cloudevents.core.bindings.http import to_structured_event

from gate.client._alert import Alert
from gate.client._alert_sinks.receiver import Receiver
from gate.client._alert_sinks.sink import Sink
from gate.client._errors import ArgumentError

_TOLERANCE: Final = 300.0  # s
_DIGITS: Final = 20  # of a unix time; more are no time, and too many no int
_SAFE: Final = "!#$%&'()*+,/:;<=>?@[]^`{|}~"  # what a header may hold beside letters and digits


class Webhook(Sink):
    """Posts each alert as a CloudEvent in JSON (structured mode).

    `webhook-id` and `idempotency-key` are the CloudEvent's id: the receiver may get an alert twice and knows it by
    that. With a `secret`, `webhook-signature` is the HMAC-SHA256 over id, time and body that `verify` checks; a secret
    that starts with `whsec_` is base64, as the specification has it, any other is taken as it is.
    """

    def __init__(self, url: str, *, secret: str | None = None, client: httpx.AsyncClient | None = None) -> None:
        if secret is not None and not _key(secret):
            raise ArgumentError("the secret is empty", hint="anybody could sign with it; leave it out to sign nothing")
        self._receiver = Receiver("the webhook", url, client)
        self._secret = secret

    async def deliver(self, alert: Alert) -> None:
        """Post one alert."""
        message = to_structured_event(alert.event)
        known = quote(alert.id, safe=_SAFE)
        headers = {**message.headers, "webhook-id": known, "idempotency-key": f'"{known}"'}
        if self._secret is not None:
            at = str(int(time.time()))
            headers |= {"webhook-timestamp": at, "webhook-signature": _sign(self._secret, known, at, message.body)}
        await self._receiver.post(message.body, headers)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._receiver.aclose()


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> bool:
    """Tell whether a post was signed with the secret in the last five minutes; for receivers in Python.

    `headers` has lower-case names. An alert that was posted before stays valid: keep the ids for that long. Whatever
    the headers hold, the answer is yes or no; with an empty secret it is no.
    """
    at = headers.get("webhook-timestamp", "")
    if not _key(secret) or len(at) > _DIGITS or not (at.isascii() and at.isdecimal()):
        return False
    if abs((time.time() if now is None else now) - int(at)) > _TOLERANCE:
        return False
    wanted = _sign(secret, headers.get("webhook-id", ""), at, body)
    return any(
        hmac.compare_digest(_bytes(given), wanted.encode()) for given in headers.get("webhook-signature", "").split()
    )


def _sign(secret: str, known: str, at: str, body: bytes) -> str:
    digest = hmac.digest(_key(secret), _bytes(f"{known}.{at}.") + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else _bytes(secret)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # half a character is in no signature that was made, and no error
