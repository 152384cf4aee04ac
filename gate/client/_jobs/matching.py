"""The matching of news and tickets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from gate.client._jobs.ticket import Decision, JobFailedError, Ticket

News: TypeAlias = Decision | JobFailedError | bytes

_CROWD: Final = 10_000


class Matching:
    """Open tickets by id, and news whose ticket may be about to open.

    A client knows the id of its request only from the broker's acknowledgement, and may read the gate's decision before
    it has handled that. So while requests are under way, news of unknown ids is kept: from the start of the oldest one.
    """

    def __init__(self) -> None:
        self._tickets: WeakValueDictionary[str, Ticket] = WeakValueDictionary()
        self._arrivals = 0
        self._under_way: dict[object, int] = {}  # submission -> arrivals before it, ascending
        self._unknown: dict[str, tuple[int, list[News]]] = {}  # in the order of arrival

    def __len__(self) -> int:
        """How many tickets somebody still holds."""
        return len(self._tickets)

    @contextmanager
    def submission(self) -> Iterator[None]:
        """Keep news of unknown ids from here on to the end of the block, where the ticket is opened."""
        submission = object()
        self._under_way[submission] = self._arrivals
        try:
            yield
        finally:
            del self._under_way[submission]
            self._expire()

    def open(self, service: str, ticket_id: str) -> Ticket:
        """Return a ticket that has all its news, and will get what comes."""
        ticket = Ticket(service, ticket_id)
        self._tickets[ticket_id] = ticket
        for news in self._unknown.pop(ticket_id, (0, []))[1]:
            ticket.take(news)
        return ticket

    def concerns(self, ticket_id: str) -> bool:
        """Tell whether news of this id is to be delivered; most of a busy topic is not."""
        return bool(self._under_way) or ticket_id in self._tickets

    def deliver(self, ticket_id: str, news: News) -> None:
        """Hand news over, or keep it if its ticket may be about to open."""
        self._arrivals += 1
        ticket = self._tickets.get(ticket_id)
        if ticket is not None:
            ticket.take(news)
        elif self._under_way:
            self._unknown.setdefault(ticket_id, (self._arrivals, []))[1].append(news)

    @property
    def is_crowded(self) -> bool:
        """Tell whether so much is kept that reading should wait for the submissions under way."""
        return len(self._unknown) >= _CROWD

    def break_off(self, error: Exception) -> None:
        """Let nobody wait for what will not come."""
        for ticket in list(self._tickets.values()):
            ticket.break_off(error)

    def _expire(self) -> None:
        oldest = next(iter(self._under_way.values()), self._arrivals)
        while self._unknown:
            ticket_id, (arrival, _) = next(iter(self._unknown.items()))
            if arrival > oldest:
                break
            del self._unknown[ticket_id]
