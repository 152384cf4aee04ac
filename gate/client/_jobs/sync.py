"""The job client for programs without an event loop: the same calls, and each returns when it is done.

>>> from gate.client import SyncJobClient
>>> def pay() -> bytes:
...     with SyncJobClient("localhost:9092") as jobs:
...         return jobs.submit("payments", b'{"amount": 12}').result(timeout=30)
"""

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

from gate.client._background import Twin
from gate.client._jobs import client, ticket
from gate.client._jobs.ticket import Decision
from gate.client._sender import Header
from gate.config import Connection


class SyncTicket:
    """A submitted job, as `Ticket`."""

    def __init__(self, inner: ticket.Ticket, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._inner = inner
        self._run = run

    @property
    def id(self) -> str:
        """The gate's id of the request."""
        return self._inner.id

    @property
    def service(self) -> str:
        """The service."""
        return self._inner.service

    def decision(self, timeout: float | None = None) -> Decision:
        """Return the newest decision; wait for the first one. Raises NoAnswerError after `timeout` seconds."""
        decision: Decision = self._run(self._inner.decision(timeout))
        return decision

    def __iter__(self) -> Iterator[Decision]:
        """Yield the decisions, those made before included, up to the first final one: admitted or rejected."""
        decisions = aiter(self._inner)
        while (decision := self._run(_next(decisions))) is not None:
            yield decision

    def result(self, timeout: float | None = None) -> bytes:
        """Return what the worker answered; wait for it. Raises as `Ticket.result` does."""
        result: bytes = self._run(self._inner.result(timeout))
        return result


async def _next(decisions: Any) -> Decision | None:
    return await anext(decisions, None)


class JobOptions(TypedDict, total=False):
    """What may go with a job."""

    key: bytes | str | None
    priority: str | None
    tenant: str | None
    cost: int
    deadline: float | datetime | None
    start: float | datetime | None
    id: str | None
    headers: Mapping[str, bytes | str] | Iterable[Header] | None


class SyncJobClient(Twin[client.JobClient]):
    """Submits jobs and tells what becomes of them; the parameters are those of `JobClient`.

    An event loop runs in a thread of its own. May be used by several threads.
    """

    def __init__(self, bootstrap: str | Connection, **options: Any) -> None:
        super().__init__(client.JobClient(bootstrap, **options))

    def submit(self, service: str, payload: object, **options: Unpack[JobOptions]) -> SyncTicket:
        """Submit a job, and return when the broker has it; as `JobClient.submit`."""
        return SyncTicket(self._background.run(self._inner.submit(service, payload, **options)), self._background.run)

    def ticket(self, request: str, *, service: str | None = None) -> SyncTicket:
        """Return the ticket of a job that anybody submitted; as `JobClient.ticket`."""
        return SyncTicket(self._background.run(self._inner.ticket(request, service=service)), self._background.run)
