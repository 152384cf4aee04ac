"""Who looks at the console, and what he may do there: by a token, or by what a trusted proxy says of him.

Without either everybody may look, is told no names, and may do nothing. With one, a stranger is told nothing at all.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from gate.errors import GateError
from gate.files import NotAFileError, open_regular

COOKIE: Final = "gate-token"
PROXY_USER: Final = "X-Forwarded-User"
PROXY_ROLE: Final = "X-Gate-Role"
_HASHED: Final = "sha256:"
_SHORTEST: Final = 16  # characters of a token
_LONGEST_FILE: Final = 1 << 20
_LINE: Final = "each line is NAME ROLE TOKEN: ann operate 3f0c..., with a role of read, operate or admin"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Role(IntEnum):
    """What somebody may do; each may what those before it may."""

    READ = 1  # see names: tenants, and who commanded what
    OPERATE = 2  # pause and resume
    ADMIN = 3  # what loses requests: cancel


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who looks. `key` signs the forms that he is given."""

    who: str = ""
    role: Role | None = None  # None: nobody has told who he is, and nobody asks
    key: bytes = b""
    by_cookie: bool = False

    def may(self, role: Role) -> bool:
        """Tell whether he may do what takes a role."""
        return self.role is not None and self.role >= role

    def sign(self, text: str) -> str:
        """Return a signature that only he can be given."""
        return hmac.new(self.key, text.encode(), sha256).hexdigest()


STRANGER: Final = Viewer()  # where nobody asks


@dataclass(frozen=True)
class Access:
    """Tokens by their digests, and the networks of proxies that are believed."""

    tokens: Mapping[bytes, tuple[str, Role]]
    proxies: tuple[Network, ...] = ()
    key: bytes = b""  # signs what those are given whom a proxy names

    @property
    def is_on(self) -> bool:
        """Tell whether anybody has to say who he is."""
        return bool(self.tokens or self.proxies)

    def viewer(self, request: Request) -> Viewer | None:
        """Return who asks; None: somebody who may see nothing."""
        if not self.is_on:
            return STRANGER
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.by_token(token.strip())
        if (found := self.by_token(request.cookies.get(COOKIE, ""), by_cookie=True)) is not None:
            return found
        return self._by_proxy(request)

    def by_token(self, token: str, *, by_cookie: bool = False) -> Viewer | None:
        """Return whose token this is; None: nobody's."""
        digest = sha256(token.encode(errors="replace")).digest()
        found: Viewer | None = None
        for known, (who, role) in self.tokens.items():  # all of them: how long it takes tells nothing
            if hmac.compare_digest(known, digest):
                found = Viewer(who, role, digest, by_cookie)
        return found

    def _by_proxy(self, request: Request) -> Viewer | None:
        who = request.headers.get(PROXY_USER, "").strip()
        if not who or request.client is None:
            return None
        try:
            address = ipaddress.ip_address(request.client.host)
        except ValueError:
            return None
        if not any(address in network for network in self.proxies):
            return None
        role = Role.__members__.get(request.headers.get(PROXY_ROLE, "read").upper(), Role.READ)
        return Viewer(who[:200], role, hmac.new(self.key, who.encode(), sha256).digest(), by_cookie=True)


OPEN: Final = Access({})  # everybody may look, and do nothing


def is_same_origin(request: Request) -> bool:
    """Tell whether a browser sent a request from a page of this very server."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host", "")


def load_access(tokens: Path | None, proxies: Iterable[str]) -> Access:
    """Return what a file of tokens and `--trusted-proxy` come to. Raises GateError, which never shows a token."""
    networks = []
    for text in proxies:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise GateError(f"--trusted-proxy: {error}", hint="give a network, as in 10.0.0.0/8") from error
    known = {} if tokens is None else parse_tokens(_read(tokens), str(tokens))
    return Access(known, tuple(networks), secrets.token_bytes(32))


def parse_tokens(text: str, name: str) -> dict[bytes, tuple[str, Role]]:
    """Read a file of tokens. Raises GateError."""
    known: dict[bytes, tuple[str, Role]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = line.split()
        if len(fields) != 3 or fields[1].upper() not in Role.__members__:
            raise GateError(f"{name}:{number} gives nobody a token", hint=_LINE)
        who, role, token = fields
        digest = _digest(token, f"{name}:{number}")
        if digest in known:
            raise GateError(f"{name}:{number} gives {who} a token that {known[digest][0]} has", hint="make another one")
        known[digest] = who, Role[role.upper()]
    if not known:
        raise GateError(f"{name} holds no token", hint=_LINE)
    return known


def _digest(token: str, place: str) -> bytes:
    if token.startswith(_HASHED):
        try:
            digest = bytes.fromhex(token.removeprefix(_HASHED))
        except ValueError:
            digest = b""
        if len(digest) != sha256().digest_size:
            raise GateError(f"{place} has no SHA-256 behind {_HASHED}", hint="printf %s TOKEN | sha256sum")
        return digest
    if len(token) < _SHORTEST:
        raise GateError(f"{place} has a token of {len(token)} characters: too short", hint="openssl rand -hex 16")
    return sha256(token.encode()).digest()


def _read(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read(_LONGEST_FILE).decode()
    except NotAFileError:
        raise GateError(f"--tokens: {path} is no regular file", hint=_LINE) from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise GateError(f"--tokens: {path} can't be read: {why}", hint=_LINE) from error
