"""The ticket that a submitter holds of a job: the decisions about it, and its result."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import count

from gate.client._headers import ERROR, attempt, last, number
from gate.errors import GateError
from gate.protocol.headers import NOT_BEFORE, STAMP, Headers, parse_stamp, stamped_retry_after
from gate.text import timestamp


class Verdict(StrEnum):
    """What the gate can decide."""

    ADMITTED = "admitted"
    DELAYED = "delayed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided about a request, and when.

    `reason` and `limit` say why it was not plainly admitted. Delayed, it will be admitted at `not_before` if nothing
    changes. Rejected, it may be worth submitting again after `retry_after` seconds; None: never. `error` says what
    is wrong with a malformed request. `attempt` counts the attempts of workers at the job, from 1; `number` the gate's
    decisions about this attempt, from 1.
    """

    verdict: Verdict
    at: datetime
    attempt: int = 1
    number: int = 1
    reason: str | None = None
    limit: str | None = None
    not_before: datetime | None = None
    retry_after: int | None = None
    error: str | None = None

    @classmethod
    def of(cls, headers: Headers) -> "Decision":
        """Read the gate's stamp. Raises ValueError where there is none."""
        headers = tuple(headers)
        stamp = parse_stamp(last(headers, STAMP) or b"")
        not_before = number(last(headers, NOT_BEFORE))
        error = last(headers, ERROR)
        return cls(
            Verdict(stamp.verdict),
            _time(stamp.at_ms),
            attempt(headers),
            stamp.attempt,
            stamp.reason,
            stamp.limit,
            None if not_before is None else _time(not_before),
            number(stamped_retry_after(headers)),
            None if error is None else error.decode(errors="replace"),
        )

    @property
    def is_final(self) -> bool:
        """Tell whether the gate will decide no more about this request."""
        return self.verdict is not Verdict.DELAYED

    @property
    def order(self) -> tuple[datetime, int, int]:
        """Decisions about a job ascend by it, over its retries too: the gate's time does not step back."""
        return self.at, self.attempt, self.number

    def __str__(self) -> str:
        text = self.verdict.value
        if self.not_before is not None and not self.is_final:
            text += f" until {timestamp(self.not_before)}"
        if self.limit or self.reason:
            text += f" by {self.limit or self.reason}"
        if self.verdict is Verdict.REJECTED and self.retry_after is not None:
            text += f"; try again after {self.retry_after} s"
        return f"{text}: {self.error}" if self.error else text


def _time(unix_ms: int) -> datetime:
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (ValueError, OverflowError):  # paused until it is resumed
        return datetime.max.replace(tzinfo=UTC)


class JobRejectedError(GateError):
    """The gate rejected the request; `decision` says why."""

    def __init__(self, ticket_id: str, decision: Decision) -> None:
        super().__init__(f"request {ticket_id} was {decision}")
        self.decision = decision


class JobFailedError(GateError):
    """A worker gave the job up after `attempts`; `error` is the last one's."""

    def __init__(self, ticket_id: str, error: str, attempts: int) -> None:
        super().__init__(f"job {ticket_id} was given up after {attempts} attempts: {error}")
        self.error = error
        self.attempts = attempts


class NoAnswerError(GateError, TimeoutError):
    """Nothing came within the time given. The job goes on; ask again."""


class Ticket:
    """A submitted job. `id` is the gate's: `topic-partition@offset` of the request.

    What is not waited for is not kept: the client forgets a ticket when its holder does.
    """

    __slots__ = ("__weakref__", "_broken", "_decisions", "_moved", "_outcome", "id", "service")

    def __init__(self, service: str, ticket_id: str) -> None:
        self.service = service
        self.id = ticket_id
        self._decisions: tuple[Decision, ...] = ()
        self._outcome: bytes | JobFailedError | None = None
        self._broken: Exception | None = None
        self._moved: asyncio.Future[None] | None = None

    async def decision(self, timeout: float | None = None) -> Decision:  # noqa: ASYNC109 - the caller's own words
        """Return the newest decision; wait for the first one.

        Raises NoAnswerError after `timeout` seconds.
        """
        await self._until(lambda: bool(self._decisions), timeout, "no gate has decided about")
        return self._decisions[-1]

    async def __aiter__(self) -> AsyncIterator[Decision]:
        """Yield the decisions, those made before included, up to the first final one: admitted or rejected."""
        for seen in count():
            await self._until(partial(self._has_more_than, seen), None, "")
            yield self._decisions[seen]
            if self._decisions[seen].is_final:
                return

    def _has_more_than(self, seen: int) -> bool:
        return len(self._decisions) > seen

    async def result(self, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Return what the worker answered; wait for it.

        Raises JobRejectedError if the gate rejected the request or a retry of it, JobFailedError if workers gave it up,
        and NoAnswerError after `timeout` seconds. A worker answers only if it is told to, and its handler returns
        something.
        """
        await self._until(
            lambda: self._outcome is not None or self._rejection is not None, timeout, "no worker has done"
        )
        if isinstance(self._outcome, bytes):
            return self._outcome
        if self._outcome is not None:
            raise self._outcome
        assert self._rejection is not None
        raise JobRejectedError(self.id, self._rejection)

    @property
    def _rejection(self) -> Decision | None:
        newest = self._decisions[-1] if self._decisions else None
        return newest if newest is not None and newest.verdict is Verdict.REJECTED else None

    # -- what the client calls -------------------------------------------------------------------------------------

    def take(self, news: Decision | JobFailedError | bytes) -> None:
        """Note what came. Topics are read side by side, so that older decisions can come after newer ones: left out."""
        if not isinstance(news, Decision):
            self._outcome = news if self._outcome is None else self._outcome
        elif not self._decisions or news.order > self._decisions[-1].order:
            self._decisions += (news,)
        self._wake()

    def break_off(self, error: Exception) -> None:
        """Let nobody wait for what will not come."""
        self._broken = error
        self._wake()

    def _wake(self) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)
        self._moved = None

    async def _until(self, condition: Callable[[], bool], seconds: float | None, what: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if self._broken is not None:
                        raise self._broken
                    if self._moved is None:
                        self._moved = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._moved)  # others may wait for it too
        except TimeoutError as error:
            raise NoAnswerError(
                f"{what} request {self.id} within {seconds:g} s",
                hint="wait longer, or look whether it is at work: `gate usage`",
            ) from error
