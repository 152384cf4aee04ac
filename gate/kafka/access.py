"""Access to the brokers: address, encryption, credentials.

All but the address comes from the environment alone: a password has no place in a policy file or on a command line, and
whatever runs in a process, gate, command or library, goes to the same brokers.
"""

import os
import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from aiokafka.helpers import create_ssl_context

from gate.errors import GateError
from gate.kafka.aio.compat import need_fast
from gate.kafka.aio.sasl import OAUTHBEARER
from gate.kafka.tokens import Tokens, custom

PROTOCOL: Final = "GATE_SECURITY_PROTOCOL"
MECHANISM: Final = "GATE_SASL_MECHANISM"
USERNAME: Final = "GATE_SASL_USERNAME"
PASSWORD: Final = "GATE_SASL_PASSWORD"  # noqa: S105 - where it stands
CA_FILE: Final = "GATE_SSL_CAFILE"
CERTIFICATE: Final = "GATE_SSL_CERTFILE"
KEY: Final = "GATE_SSL_KEYFILE"
KEY_PASSWORD: Final = "GATE_SSL_PASSWORD"  # noqa: S105 - where it stands
TOKEN_URL: Final = "GATE_OAUTH_TOKEN_URL"  # noqa: S105 - where it stands
CLIENT_ID: Final = "GATE_OAUTH_CLIENT_ID"
CLIENT_SECRET: Final = "GATE_OAUTH_CLIENT_SECRET"  # noqa: S105 - where it stands
SCOPE: Final = "GATE_OAUTH_SCOPE"
AUDIENCE: Final = "GATE_OAUTH_AUDIENCE"
TOKEN_CA_FILE: Final = "GATE_OAUTH_CAFILE"  # noqa: S105 - a file's name
EXTENSIONS: Final = "GATE_OAUTH_EXTENSIONS"
PROVIDER: Final = "GATE_OAUTH_PROVIDER"
_ENDPOINT: Final = (TOKEN_URL, CLIENT_ID, CLIENT_SECRET, SCOPE, AUDIENCE, TOKEN_CA_FILE)
_OAUTH: Final = (*_ENDPOINT, EXTENSIONS, PROVIDER)
VARIABLES: Final = (PROTOCOL, MECHANISM, USERNAME, PASSWORD, CA_FILE, CERTIFICATE, KEY, KEY_PASSWORD, *_OAUTH)

_PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER)


def access(bootstrap: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the options with which aiokafka's clients reach `bootstrap`.

    Raises GateError for variables that make no sense, or not together.
    """
    options = _options(bootstrap, environment)
    protocol = options["security_protocol"]
    if protocol.startswith("SASL"):
        need_fast(f"{PROTOCOL}={protocol}: the gate must see that credentials are refused, and when a session ends")
    return options


def _options(bootstrap: str, environment: Mapping[str, str]) -> dict[str, Any]:
    protocol = _one_of(PROTOCOL, _PROTOCOLS, environment)
    options: dict[str, Any] = {"bootstrap_servers": bootstrap, "security_protocol": protocol}
    encrypted, named = protocol.endswith("SSL"), protocol.startswith("SASL")
    _unused(environment, protocol, [] if encrypted else [CA_FILE, CERTIFICATE, KEY, KEY_PASSWORD])
    _unused(environment, protocol, [] if named else [MECHANISM, USERNAME, PASSWORD, *_OAUTH])
    if encrypted:
        options["ssl_context"] = _ssl_context(environment)
    if named:
        mechanism = options["sasl_mechanism"] = _one_of(MECHANISM, _MECHANISMS, environment)
        for variable in (USERNAME, PASSWORD) if mechanism == OAUTHBEARER else _OAUTH:
            if environment.get(variable):
                text = f"{variable} is set, but not used with {MECHANISM}={mechanism}"
                raise GateError(text, hint=f"set {MECHANISM} to another, or unset {variable}")
        if mechanism == OAUTHBEARER:
            options["sasl_oauth_token_provider"] = _tokens(*(environment.get(variable, "") for variable in _OAUTH))
            return options
        for variable, option in ((USERNAME, "sasl_plain_username"), (PASSWORD, "sasl_plain_password")):
            _needed(f"{PROTOCOL}={protocol}", variable, environment.get(variable))
            options[option] = environment[variable]
    return options


def described(environment: Mapping[str, str] = os.environ) -> str:
    """Return in words how a broker is talked to, without what is secret."""
    protocol = environment.get(PROTOCOL) or _PROTOCOLS[0]
    if environment.get(MECHANISM) == OAUTHBEARER:
        client, provider = environment.get(CLIENT_ID), environment.get(PROVIDER)
        return f"{protocol} with a token of {f'provider {provider}' if provider else f'client {client}'}"
    user = environment.get(USERNAME)
    return f"{protocol} as user {user}" if user else protocol


@lru_cache(maxsize=8)  # one for all clients of a process: each asks for tokens as seldom as one alone
def _tokens(
    url: str, client_id: str, secret: str, scope: str, audience: str, ca_file: str, extensions: str, provider: str
) -> Tokens:
    pairs = dict(_pair(text) for text in extensions.split(",") if text.strip())
    if provider:
        for variable, value in zip(_ENDPOINT, (url, client_id, secret, scope, audience, ca_file), strict=True):
            if value:
                text = f"{variable} is set, but not used with {PROVIDER}={provider}"
                raise GateError(text, hint=f"unset {variable} or {PROVIDER}")
        source, own = custom(provider)
        return Tokens(source, f"provider {provider}", lambda: {**(own() if own else {}), **pairs})
    for variable, value in zip(_ENDPOINT, (url, client_id, secret), strict=False):
        _needed(f"{MECHANISM}={OAUTHBEARER}", variable, value)
    from gate.kafka.token_endpoint import TokenEndpoint  # noqa: PLC0415 - httpx takes its time, and few ask an issuer

    endpoint = TokenEndpoint(url, client_id, secret, scope, audience, ca_file)
    return Tokens(endpoint, str(endpoint), lambda: pairs)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.strip().partition("=")
    if not (name.isascii() and name.isalpha() and equals and name != "auth" and value.isprintable()):
        raise GateError(f"{EXTENSIONS}: {text!r} is not NAME=VALUE", hint="such as logicalCluster=lkc-1")
    return name, value


def _needed(by: str, variable: str, value: str | None) -> None:
    if not value:
        raise GateError(f"{by} needs {variable}, which is not set", hint=f"set {variable}")


def _one_of(variable: str, known: tuple[str, ...], environment: Mapping[str, str]) -> str:
    value = environment.get(variable) or known[0]
    if value not in known:
        raise GateError(f"{variable}={value} is not known", hint=f"use one of {', '.join(known)}")
    return value


def _unused(environment: Mapping[str, str], protocol: str, variables: list[str]) -> None:
    """Raise GateError for credentials that would silently not be used."""
    for variable in variables:
        if environment.get(variable):
            raise GateError(
                f"{variable} is set, but not used with {PROTOCOL}={protocol}",
                hint=f"set {PROTOCOL} to one of {', '.join(_PROTOCOLS)}, or unset {variable}",
            )


def _ssl_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    files = {variable: environment.get(variable) or None for variable in (CA_FILE, CERTIFICATE, KEY)}
    if files[KEY] and not files[CERTIFICATE]:
        raise GateError(f"{KEY} is set without {CERTIFICATE}", hint=f"set {CERTIFICATE} to the client's certificate")
    for variable, path in files.items():
        if path and not os.access(path, os.R_OK):
            raise GateError(f"{variable}={path} can't be read", hint="name a PEM file that this user may read")
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=files[CA_FILE],
            certfile=files[CERTIFICATE],
            keyfile=files[KEY],
            password=environment.get(KEY_PASSWORD, ""),  # a wrong one is an error; none would ask at the terminal
        )
    except (ssl.SSLError, OSError) as error:
        raise GateError(
            f"the files of {', '.join(v for v, path in files.items() if path)} do not fit: {error}",
            hint="they must be PEM, and the key must belong to the certificate",
        ) from error
    return context
