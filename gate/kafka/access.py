"""How clients get through to the brokers: address, encryption, credentials.

All but the address comes from the environment alone: a password has no place in a policy file or on a command line, and
whatever runs in a process, gate, command or library, goes to the same brokers.
"""

import os
import ssl
from collections.abc import Mapping
from typing import Any, Final

from aiokafka.helpers import create_ssl_context

from gate.errors import GateError

PROTOCOL: Final = "GATE_SECURITY_PROTOCOL"
MECHANISM: Final = "GATE_SASL_MECHANISM"
USERNAME: Final = "GATE_SASL_USERNAME"
PASSWORD: Final = "GATE_SASL_PASSWORD"  # noqa: S105 - where it stands
CA_FILE: Final = "GATE_SSL_CAFILE"
CERTIFICATE: Final = "GATE_SSL_CERTFILE"
KEY: Final = "GATE_SSL_KEYFILE"
KEY_PASSWORD: Final = "GATE_SSL_PASSWORD"  # noqa: S105 - where it stands
VARIABLES: Final = (PROTOCOL, MECHANISM, USERNAME, PASSWORD, CA_FILE, CERTIFICATE, KEY, KEY_PASSWORD)

_PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def access(bootstrap: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the options with which aiokafka's clients reach `bootstrap`.

    Raises GateError for variables that make no sense, or not together.
    """
    protocol = _one_of(PROTOCOL, _PROTOCOLS, environment)
    options: dict[str, Any] = {"bootstrap_servers": bootstrap, "security_protocol": protocol}
    encrypted, named = protocol.endswith("SSL"), protocol.startswith("SASL")
    _unused(environment, protocol, [] if encrypted else [CA_FILE, CERTIFICATE, KEY, KEY_PASSWORD])
    _unused(environment, protocol, [] if named else [MECHANISM, USERNAME, PASSWORD])
    if encrypted:
        options["ssl_context"] = _ssl_context(environment)
    if named:
        options["sasl_mechanism"] = _one_of(MECHANISM, _MECHANISMS, environment)
        for variable, option in ((USERNAME, "sasl_plain_username"), (PASSWORD, "sasl_plain_password")):
            if not environment.get(variable):
                raise GateError(f"{PROTOCOL}={protocol} needs {variable}, which is not set", hint=f"set {variable}")
            options[option] = environment[variable]
    return options


def described(environment: Mapping[str, str] = os.environ) -> str:
    """Return in words how a broker is talked to, without what is secret."""
    protocol = environment.get(PROTOCOL) or _PROTOCOLS[0]
    user = environment.get(USERNAME)
    return f"{protocol} as user {user}" if user else protocol


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
