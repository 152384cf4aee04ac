"""Direct requests of a holder: one at a time for each group of budgets; a denial holds until its time."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from gate.mesh.terms import Terms, shorter
from gate.mesh.wire import NONE, Ask, Slot

Names = tuple[str, ...]  # budgets that one call is charged to, together or not at all
_PATIENCE: Final = 10  # an n-th of a period, after which to look for the answer


class Refusal(NamedTuple):
    """A call that can't go now."""

    wait: int  # ns after which it may; NEVER: it can't ever
    asked: bool  # whether the owner is being asked, so that it may go in a moment


@dataclass(slots=True)
class _Question:
    number: int
    cost: int
    made: int
    sent: int | None = None  # when


class Questions:
    """What was asked, denied, and granted but not yet used."""

    __slots__ = ("_number", "_open", "denied", "round_trip", "slots", "terms")

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.round_trip = 0  # ns that answers take of late
        self.denied: dict[Names, tuple[int, int]] = {}  # (until, cost)
        self.slots: dict[Names, tuple[int, int]] = {}  # (until, cost)
        self._open: dict[Names, _Question] = {}
        self._number = 0

    def ask(self, now: int, names: Names, cost: int) -> tuple[Refusal, bool]:
        """Ask for a call unless that was asked or denied; return what it is told, and whether a question is new."""
        until, denied = self.denied.get(names, (now, 0))
        if now < until and cost >= denied:
            return Refusal(until - now, asked=False), False
        question = self._open.get(names)
        new = question is None or now - question.made > self.terms.period_ns  # the answer to an old one was lost
        if new:
            self._number += 1
            self._open[names] = _Question(self._number, cost, now)
        return Refusal(self.terms.period_ns // _PATIENCE, asked=True), new

    def unsent(self) -> bool:
        """Tell whether a question was not sent yet."""
        return any(question.sent is None for question in self._open.values())

    def send(self, now: int) -> tuple[Ask, ...]:
        """Return the questions that go out now."""
        asks = []
        for names, question in self._open.items():
            if question.sent is None:
                question.sent = now
                asks.append(Ask(question.number, names, question.cost, self.round_trip))
        return tuple(asks)

    def answer(self, now: int, slot: Slot) -> None:
        """Take an answer. A slot holds from the sending of its question: the owner decided later than that."""
        for names, question in self._open.items():
            if question.number == slot.number and question.sent is not None:
                if slot.use_by:
                    self.slots[names] = (question.sent + shorter(slot.use_by), question.cost)
                    self.denied.pop(names, None)
                else:
                    wait = self.terms.lease_ns if slot.wait == NONE else slot.wait
                    self.denied[names] = (now + wait, question.cost)
                del self._open[names]
                return

    def use_slot(self, now: int, names: Names, cost: int) -> bool:
        """Use what was granted; tell whether it holds yet, and is enough."""
        until, size = self.slots[names]
        if now < until and cost > size:
            return False
        del self.slots[names]
        return now < until

    def tidy(self, now: int) -> None:
        """Forget denials whose time has come."""
        self.denied = {names: denied for names, denied in self.denied.items() if now < denied[0]}
