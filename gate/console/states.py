"""How many services are in which state: counted on as records come, and as time goes by. No I/O, no clock."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from gate.console.records import Record
from gate.console.view import Word, changes_ms, word_of, worst

_LOOKED_EVERY_MS: Final = 2_000  # a pause may have ended, and a gate may have fallen silent


class States:
    """The states of those that are held back, or nearly, or may be; others are free."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[Word, str]] = {}
        self._words: Counter[Word] = Counter()
        self._kinds: Counter[str] = Counter()
        self._came: set[str] = set()  # services, since they were looked at
        self._changes: dict[str, int] = {}  # unix ms when a state may be another by time alone
        self._looked_ms = 0  # when that was looked at

    def put(self, service: str, *, is_calm: bool) -> None:
        """Note that a record of a service has come."""
        if is_calm:
            self.drop(service)
        else:
            self._came.add(service)

    def drop(self, service: str) -> None:
        """Take a service to be free, or to have gone."""
        self._came.discard(service)
        self._changes.pop(service, None)
        if (before := self._states.pop(service, None)) is not None:
            self._count(before, -1)

    def look(self, records: Mapping[str, Record], now_ms: int) -> None:
        """Bring states up to date: where a record came, and where time may have changed it."""
        since = now_ms - self._looked_ms
        if since < 0:  # the clock was set back
            self._came |= self._states.keys()
        elif since >= _LOOKED_EVERY_MS:
            self._came.update(service for service, at_ms in self._changes.items() if at_ms <= now_ms)
        if not 0 <= since < _LOOKED_EVERY_MS:
            self._looked_ms = now_ms
        for service in self._came:
            record = records[service]
            state, before = word_of(record, now_ms), self._states.get(service)
            if state != before:
                self._states[service] = state
                self._count(state, 1)
                if before is not None:
                    self._count(before, -1)
            if (at_ms := changes_ms(record, now_ms)) is not None:
                self._changes[service] = at_ms
            elif service in self._changes:
                del self._changes[service]
        self._came.clear()

    def word(self, service: str) -> Word:
        """Return the state of a service in one word."""
        state = self._states.get(service)
        return Word.FREE if state is None else state[0]

    def counts(self, services: int) -> Sequence[tuple[Word, int]]:
        """Return how many of so many services are in which state."""
        free = services - len(self._states)
        counts = {word: self._words[word] + (free if word is Word.FREE else 0) for word in Word}
        return [(word, count) for word, count in counts.items() if count]

    def worst(self) -> str:
        """Return the worst kind of any: good, warn or bad."""
        return worst(+self._kinds)

    def _count(self, state: tuple[Word, str], more: int) -> None:
        word, kind = state
        self._words[word] += more
        self._kinds[kind] += more
