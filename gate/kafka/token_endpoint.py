"""An issuer of tokens for who shows a client's id and secret: OAuth 2.0's client credentials grant (RFC 6749, 4.4)."""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus, urlsplit

import httpx

from gate.errors import GateError
from gate.kafka.aio.sasl import AccessError, shown
from gate.kafka.tokens import Token, end_of

DEADLINE: Final = 10.0
_PASSING: Final = (408, 429)  # and what is wrong with the server


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Where tokens are asked for, and as whom. A secret that begins with @ names the file that holds it."""

    url: str
    client_id: str
    secret: str = field(repr=False)
    scope: str = ""
    audience: str = ""
    ca_file: str = ""

    def __post_init__(self) -> None:
        """Raise GateError for what can't work."""
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in {"http", "https"} and parts.hostname
        except ValueError:
            usable = False
        if not usable:
            raise GateError("GATE_OAUTH_TOKEN_URL is not an http(s) URL", hint="such as https://issuer/oauth2/token")
        self._read_secret()
        self._tls()

    def __str__(self) -> str:
        return f"client {self.client_id} at {self.place}"

    @property
    def place(self) -> str:
        """The URL without what may be secret in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def __call__(self) -> Token:
        """Ask for a token. Raises AccessError."""
        try:
            secret, tls = self._read_secret(), self._tls()
        except GateError as error:
            raise AccessError(f"{error}; {error.hint}", lasting=True) from error
        form = {"grant_type": "client_credentials", "scope": self.scope, "audience": self.audience}
        asked = time.time()
        try:
            async with asyncio.timeout(DEADLINE), httpx.AsyncClient(verify=tls) as client:
                answer = await client.post(
                    self.url,
                    data={name: value for name, value in form.items() if value},
                    auth=(quote_plus(self.client_id), quote_plus(secret)),  # so RFC 6749 wants it
                    headers={"Accept": "application/json"},
                )
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            why = shown(str(error)) or f"no answer within {DEADLINE:g} s"
            text = f"the token endpoint {self.place} can't be reached: {why}; check GATE_OAUTH_TOKEN_URL and"
            raise AccessError(f"{text} GATE_OAUTH_CAFILE", lasting=False) from error
        said = _fields(answer)
        if not answer.is_success:
            raise self._refused(answer.status_code, said, secret)
        token = said.get("access_token")
        if not isinstance(token, str):
            text = f"the token endpoint {self.place} answers {answer.status_code} without an access_token"
            raise AccessError(f"{text}; check GATE_OAUTH_TOKEN_URL", lasting=True)
        try:
            return Token(token, asked + float(said["expires_in"]))
        except (LookupError, ValueError, TypeError):
            return Token(token, end_of(token))

    def _refused(self, status: int, said: dict[str, Any], secret: str) -> AccessError:
        why = ": ".join(str(said[key]) for key in ("error", "error_description") if said.get(key))
        for form in (secret, quote_plus(secret)):
            why = why.replace(form, "***")
        text = f"the token endpoint {self.place} answers {status} to client {self.client_id}"
        if why:
            text += f" ({shown(why)})"
        if status >= 500 or status in _PASSING:
            return AccessError(f"{text}; it will be asked again", lasting=False)
        check = "GATE_OAUTH_TOKEN_URL"
        if status in {400, 401, 403}:
            check = "GATE_OAUTH_CLIENT_ID, GATE_OAUTH_CLIENT_SECRET, GATE_OAUTH_SCOPE and GATE_OAUTH_AUDIENCE"
        return AccessError(f"{text}; check {check}", lasting=True)

    def _read_secret(self) -> str:
        if not self.secret.startswith("@"):
            return self.secret
        path = self.secret[1:]
        try:
            secret = Path(path).read_text("utf-8").rstrip("\r\n")  # anew: it may have been changed
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            hint = "name a file that this user may read"
            raise GateError(f"GATE_OAUTH_CLIENT_SECRET=@{path} can't be read: {why}", hint=hint) from error
        if not secret:
            raise GateError(f"GATE_OAUTH_CLIENT_SECRET=@{path} is empty", hint="write it there")
        return secret

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except (ssl.SSLError, OSError) as error:
            hint = "name a PEM file that this user may read"
            raise GateError(f"GATE_OAUTH_CAFILE={self.ca_file} can't be used: {error}", hint=hint) from error


def _fields(answer: httpx.Response) -> dict[str, Any]:
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
