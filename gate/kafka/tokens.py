"""Tokens for SASL OAUTHBEARER: one for all clients of a process, kept while it is good and renewed before it ends."""

import asyncio
import base64
import importlib
import inspect
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from aiokafka.abc import AbstractTokenProvider

from gate.errors import GateError
from gate.kafka.aio.sasl import AccessError, shown
from gate.log import get_logger

GROUP: Final = "gate.token_providers"
BUILT_IN: Final = {"msk": "gate.kafka.msk:token"}
FRESH: Final = 0.65  # of a token's life; sessions are renewed later, so that each gets a new one
UNKNOWN_LIFE: Final = 30.0  # seconds; for a token that does not say when it ends
DEADLINE: Final = 20.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds after an issuer has failed
_BEARER: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750

log = get_logger("gate.tokens")


class Token(NamedTuple):
    """A bearer token, and when it ends in seconds since 1970, if that is known."""

    value: str
    expires_at: float | None = None


Source = Callable[[], Awaitable[Token]]


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """Hands out tokens of a source, which is asked by one at a time, and not at once again where it has failed."""

    def __init__(
        self,
        source: Source,
        name: str,
        extensions: Callable[[], Mapping[str, str]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._name = name
        self._extensions = extensions
        self._wall = wall
        self._token: Token | None = None
        self._renew_at = self._again_at = 0.0
        self._pause = FIRST_PAUSE
        self._failure: AccessError | None = None
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def __str__(self) -> str:
        return self._name

    def extensions(self) -> dict[str, str]:
        """See aiokafka: what is shown beside the token."""
        return dict(self._extensions())

    async def token(self) -> str:
        """See aiokafka."""
        return (await self.current()).value

    async def current(self) -> Token:
        """Return a token that is good, a new one if this one has grown old. Raises AccessError."""
        if self._token is not None and self._wall() < self._renew_at:
            return self._token
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if (self._token is None or self._wall() >= self._renew_at) and self._wall() >= self._again_at:
                await self._renew()
            if self._token is not None and self._wall() < (self._token.expires_at or self._renew_at):
                return self._token
        assert self._failure is not None, "neither a token nor a reason"
        raise AccessError(str(self._failure), lasting=self._failure.lasting)

    async def _renew(self) -> None:
        try:
            token = await self._source()
            life = self._life_of(token)
        except AccessError as error:
            self._failure = error
            self._again_at = self._wall() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            if self._token is not None:
                left = max(0.0, (self._token.expires_at or 0.0) - self._wall())
                log.warning("no new token; the old one is shown while it lasts", seconds=round(left), why=str(error))
        else:
            self._token, self._renew_at = token, self._wall() + FRESH * life
            self._failure, self._pause, self._again_at = None, FIRST_PAUSE, 0.0

    def _life_of(self, token: Token) -> float:
        if not _BEARER.fullmatch(token.value):
            raise AccessError(f"what {self} gives is no bearer token", lasting=True)
        life = UNKNOWN_LIFE if token.expires_at is None else token.expires_at - self._wall()
        if not life > 0:
            raise AccessError(
                f"the token of {self} has ended {-life:.0f} s ago; check this host's clock", lasting=False
            )
        return life


def custom(name: str) -> tuple[Source, Callable[[], Mapping[str, str]] | None]:
    """Return what is named as a source of tokens, and its SASL extensions if it has such.

    It is the name of an entry point of GROUP, or MODULE:NAME; called without arguments, it returns a token, or a token
    and when it ends; it may be a coroutine function, or what aiokafka calls a token provider. Raises GateError.
    """
    found = _load(name)
    if inspect.isclass(found):
        found = found()
    call = getattr(found, "token", found)
    if not callable(call):
        raise GateError(f"GATE_OAUTH_PROVIDER={name} can't be called", hint="name a function that returns a token")

    async def source() -> Token:
        try:
            async with asyncio.timeout(DEADLINE):
                made: Any = call() if inspect.iscoroutinefunction(call) else await asyncio.to_thread(call)
                if inspect.isawaitable(made):
                    made = await made
                return Token(made, end_of(made)) if isinstance(made, str) else Token(*made)
        except TimeoutError as error:
            text = f"the token provider {name} has not answered within {DEADLINE:g} s"
            raise AccessError(text, lasting=False) from error
        except Exception as error:
            said = shown(f"{'' if isinstance(error, GateError) else f'{type(error).__name__}: '}{error}")
            text = f"the token provider {name} fails: {said}"
            raise AccessError(text, lasting=False) from error

    return source, getattr(found, "extensions", None)


def _load(name: str) -> Any:
    place = BUILT_IN.get(name, name)
    try:
        if ":" in place:
            module, _, attribute = place.partition(":")
            return getattr(importlib.import_module(module), attribute)
        there = entry_points(group=GROUP)
        if name in there.names:
            return there[name].load()
    except (ImportError, AttributeError) as error:
        hint = "pip install 'kafka-admission-gate[msk]'" if name in BUILT_IN else "it must be installed beside the gate"
        raise GateError(f"GATE_OAUTH_PROVIDER={name} can't be loaded: {error}", hint=hint) from error
    known = ", ".join(sorted({*BUILT_IN, *there.names}))
    raise GateError(f"GATE_OAUTH_PROVIDER={name} is not known", hint=f"use one of {known}, or MODULE:NAME")


def end_of(token: str) -> float | None:
    """Return when a JWT ends."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        return float(claims["exp"])
    except (ValueError, LookupError, TypeError):
        return None
