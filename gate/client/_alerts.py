"""Alert consumers: carry what the gate says about breaches to where somebody looks.

>>> alerts = Alerts("localhost:9092")
>>> @alerts.on("gate.breach.opened", service="pay*")
... async def page(alert: Alert) -> None: ...
>>> alerts.add(Console())
>>> alerts.main()  # doctest: +SKIP
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final, TypeVar

from gate.client._alert import Alert
from gate.client._alert_sinks.console import Console
from gate.client._alert_sinks.sink import LaterError, RefusedError, Sink
from gate.client._connection import CONNECT_TIMEOUT, PREFIX, connection
from gate.client._delivery import Function, Handler, Pauses, Subscription, carry
from gate.client._errors import ArgumentError
from gate.client._program import Program
from gate.config import Connection

__all__ = ["Alert", "Alerts", "Console", "LaterError", "Pauses", "RefusedError", "Sink"]

_GRACE_SECONDS: Final = 5.0
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
_ALLOWED: Final = "1 to 100 letters, digits, '.', '_' and '-'"

H = TypeVar("H", bound=Handler)


class Alerts(Program):
    """Carries alerts to handlers and sinks, at least once and in order, each at its own pace.

    Every handler and sink has a consumer group of its own, `<group_id>.<name>`: one that is down holds up no other, and
    what it misses waits in Kafka, also while this program does not run. After a crash an alert may come again; its id
    is the same. A handler that raises is tried again, with growing pauses, as is a sink that can't deliver.
    """

    def __init__(
        self,
        bootstrap: str | Connection,
        *,
        prefix: str = PREFIX,
        group_id: str = "gate-alerts",
        from_beginning: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        super().__init__(connection(bootstrap, prefix, connect_timeout))
        if not _NAME.fullmatch(group_id):
            raise ArgumentError(f"group_id {group_id!r} can't name a consumer group", hint=f"use {_ALLOWED}")
        self._topic = self._names.alerts
        self._group_id = group_id
        self._from_beginning = from_beginning
        self._subscriptions: dict[str, Subscription] = {}

    def on(
        self,
        *types: str,
        service: str = "*",
        name: str | None = None,
        attempts: int | None = None,
        pauses: Pauses | None = None,
    ) -> Callable[[H], H]:
        """Register a callable for alerts of these types, all if none is given; a synchronous one runs in a thread.

        Types and service may be globs. `name` is the handler's, by default the function's, and must stay the same:
        under it Kafka remembers what was delivered. After `attempts` failures an alert is left out; by default never.
        """

        def register(handler: H) -> H:
            known = name or str(getattr(handler, "__name__", type(handler).__name__))
            self._register(_subscription(known, Function(handler), types, service, attempts, pauses))
            return handler

        return register

    def add(
        self,
        sink: Sink,
        *types: str,
        service: str = "*",
        name: str | None = None,
        attempts: int | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        """Let a sink take alerts of these types; see `on`. Its name is by default its class's, in lower case."""
        known = name or type(sink).__name__.lower()
        self._register(_subscription(known, sink, types, service, attempts, pauses))

    def _register(self, subscription: Subscription) -> None:
        name = subscription.name
        if not _NAME.fullmatch(name):
            raise ArgumentError(f"{name!r} can't name a handler", hint=f"give another one of {_ALLOWED} with name=")
        if name in self._subscriptions:
            raise ArgumentError(
                f"there is a handler or sink {name!r} already", hint="give this one another name with name="
            )
        self._subscriptions[name] = subscription

    async def run(self) -> None:
        """Carry alerts until stopped. Raises BrokerUnreachableError if no broker answers at the start."""
        if not self._subscriptions:
            raise ArgumentError(
                "nobody is to get alerts", hint="register a callable with @alerts.on(TYPE), or a sink with alerts.add"
            )
        try:
            if await self._connected():
                await self._carry()
        finally:
            for subscription in self._subscriptions.values():
                await subscription.sink.aclose()

    async def _carry(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name, subscription in self._subscriptions.items():
                group = f"{self._group_id}.{name}"
                carrying = carry(
                    self._bootstrap, self._topic, group, subscription, self._stopping,
                    from_beginning=self._from_beginning,
                )  # fmt: skip
                self._jobs.add(tasks.create_task(carrying))
            stopped = tasks.create_task(self._stopping.wait())
            await asyncio.wait({stopped, *self._jobs}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            await self._drain(_GRACE_SECONDS)
            self._abandon()


def _subscription(
    name: str, sink: Sink, types: tuple[str, ...], service: str, attempts: int | None, pauses: Pauses | None
) -> Subscription:
    if attempts is not None and attempts < 1:
        raise ArgumentError(f"attempts is {attempts}", hint="give 1 or more, or None to try until it is delivered")
    return Subscription(name, sink, types or ("*",), service, attempts, pauses or Pauses())
