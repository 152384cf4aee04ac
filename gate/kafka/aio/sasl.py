"""Showing a broker who we are, the first time and again: SASL as aiokafka speaks it, and what the broker answers to it.

aiokafka takes a refused token for one that was taken, and forgets when the session ends.
"""

import json
import re
from typing import Any, Final, NamedTuple

from aiokafka.errors import KafkaError, UnsupportedSaslMechanismError

from gate.kafka.aio.compat.shared import SaslAuthenticateRequest, SaslHandShakeRequest

OAUTHBEARER: Final = "OAUTHBEARER"
HANDSHAKES: Final = (SaslHandShakeRequest, SaslAuthenticateRequest)
_SHOWN: Final = 200  # characters of what others say


class Session(NamedTuple):
    """How long a broker serves who has authenticated: seconds, 0: it does not say; and when the token shown ends."""

    seconds: float
    token_ends: float | None


class AccessError(KafkaError):  # type: ignore[misc]
    """A broker or an issuer of tokens does not let us in, in one line; `lasting`: nor will it if it is asked again."""

    def __init__(self, text: str, *, lasting: bool) -> None:
        super().__init__(text)
        self.lasting = lasting

    def __str__(self) -> str:
        return str(self.args[0])


class NotAgainError(AccessError):
    """A broker does not let a connection authenticate twice."""


def shown(text: str) -> str:
    """Return what others say as a short piece of one line."""
    line = re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]+", " ", text).strip()
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."


async def authenticate(connection: Any) -> Session:
    """Authenticate a connection by its mechanism. Raises AccessError, and what `connection.send` raises."""
    mechanism, _, _ = connection.credentials
    where = f"the Kafka broker at {connection.host}:{connection.port}"
    answer = await connection.send(SaslHandShakeRequest(mechanism))
    if answer.error_code == UnsupportedSaslMechanismError.errno:
        known = ", ".join(sorted(answer.enabled_mechanisms))
        raise AccessError(f"{where} does not take {mechanism}; set GATE_SASL_MECHANISM to one of {known}", lasting=True)
    if answer.error_code:
        raise NotAgainError(f"{where} does not take credentials now: error {answer.error_code}", lasting=False)
    return await (_show_token if mechanism == OAUTHBEARER else _show_password)(connection, mechanism, where)


async def _show_password(connection: Any, mechanism: str, where: str) -> Session:
    authenticator = connection.authenticator_plain() if mechanism == "PLAIN" else connection.authenticator_scram()
    _, user, _ = connection.credentials
    challenge, seconds = None, 0.0
    try:
        while (step := await authenticator.step(challenge)) is not None:
            challenge, error, seconds = await _say(connection, step[0])
            if error is not None:
                check = "check GATE_SASL_USERNAME, GATE_SASL_PASSWORD and GATE_SASL_MECHANISM"
                raise AccessError(f"{where} refuses user {user} by {mechanism}: {error}; {check}", lasting=True)
    except (ValueError, LookupError, AssertionError) as error:  # of aiokafka: it does not know the password, either
        raise AccessError(f"{where} does not prove that it knows user {user} by {mechanism}", lasting=True) from error
    return Session(seconds, None)


async def _show_token(connection: Any, _mechanism: str, where: str) -> Session:
    _, _, tokens = connection.credentials
    token = await tokens.current()
    more = "".join(f"\x01{name}={text}" for name, text in tokens.extensions().items())
    challenge, error, seconds = await _say(connection, f"n,,\x01auth=Bearer {token.value}{more}\x01\x01".encode())
    if challenge:  # RFC 7628: the reason as JSON; what is said next makes the broker say that it has failed
        _, failed, _ = await _say(connection, b"\x01")
        error = _reason(challenge) or failed
    if error is not None:
        text = f"{where} refuses the token of {tokens}: {error}"
        raise AccessError(f"{text}; check its audience, scope and issuer against what the broker wants", lasting=True)
    return Session(seconds, token.expires_at)


async def _say(connection: Any, what: bytes) -> tuple[bytes, str | None, float]:
    """Return what the broker says to it, its error, and the seconds that it gives the session."""
    answer = await connection.send(SaslAuthenticateRequest(what))
    error = shown(answer.error_message or f"error {answer.error_code}") if answer.error_code else None
    return answer.sasl_auth_bytes or b"", error, getattr(answer, "session_lifetime_ms", 0) / 1000


def _reason(challenge: bytes) -> str:
    try:
        said = json.loads(challenge)
        parts = [str(said["status"])] + [f"{key} {said[key]}" for key in ("scope",) if said.get(key)]
    except (ValueError, LookupError, TypeError):
        return shown(challenge.decode(errors="replace"))
    return shown(", ".join(parts))
