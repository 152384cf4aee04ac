"""Filter of commands on what waits: which requests are meant."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gate.client._errors import ArgumentError
from gate.protocol import control


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which requests a command is about: those that fit all that is given. With nothing given it must be `everything`.

    What comes after the owner has taken the command is never meant.
    """

    id: str = ""  # by which the gate calls the request: topic-partition@offset
    producer_id: str = ""  # the producer's own: the header gate-id
    key: str | None = None  # of the record
    tenant: str | None = None
    lane: str = ""
    older_than: float | timedelta = 0  # seconds: it has waited for longer
    deadline_before: datetime | None = None  # a request without a deadline does not fit
    everything: bool = False
    keep_newest: int = 0  # of those that fit, the last so many are left alone

    def encode(self) -> control.Selection:
        """Return it as it goes over the wire. Raises ArgumentError."""
        older = self.older_than.total_seconds() if isinstance(self.older_than, timedelta) else self.older_than
        if not 0 <= older <= control.FOREVER_MS / 1000:
            raise ArgumentError(f"older_than is {older:g} s", hint="give seconds, 0 or more")
        if self.keep_newest < 0:
            raise ArgumentError(f"keep_newest is {self.keep_newest}", hint="give 0 or more")
        deadline = 0
        if self.deadline_before is not None:
            if self.deadline_before.tzinfo is None:
                raise ArgumentError(
                    f"deadline_before is {self.deadline_before}, which has no offset from UTC",
                    hint="give a time with an offset, as datetime.now(UTC) has it",
                )
            deadline = max(1, int(self.deadline_before.timestamp() * 1000))
        selection = control.Selection(
            self.id, self.producer_id, self.key, self.tenant, self.lane, int(older * 1000), deadline,
            self.everything, self.keep_newest,
        )  # fmt: skip
        if not (selection.narrows or selection.all):
            raise ArgumentError("nothing says which requests are meant", hint="give a filter, or all of them")
        return selection
