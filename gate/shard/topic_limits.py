"""Limits of topics, as far as the broker tells them: the size of a batch, and whether each record needs a key."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog

SIZE: Final = "max.message.bytes"
CLEANUP: Final = "cleanup.policy"
CONFIGS: Final = (SIZE, CLEANUP)
FRESH: Final = 10.0  # seconds, for which what was told is believed where a request would be rejected by it
SMALLEST: Final = 256  # bytes; below it there is nothing to be learnt

log = structlog.get_logger("gate.topics")

Ask = Callable[[Collection[str]], Awaitable[Mapping[str, Mapping[str, str]]]]


@dataclass(frozen=True, slots=True)
class TopicLimit:
    """What a topic takes. `size`: bytes of a batch as it is written; None: not known."""

    size: int | None = None
    compacted: bool = False
    asked_seconds: float = float("-inf")  # by a monotonic clock


UNKNOWN: Final = TopicLimit()


async def nothing_known(_: Collection[str]) -> Mapping[str, Mapping[str, str]]:
    """Ask nobody."""
    return {}


class TopicLimits:
    """The limits of the topics that a gate writes to. `ask` returns their configurations, as far as it may."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._limits: dict[str, TopicLimit] = {}

    def of(self, topic: str) -> TopicLimit:
        """Return what is known of a topic."""
        return self._limits.get(topic, UNKNOWN)

    def size(self, topic: str, most: int) -> int:
        """Return how large a batch to a topic may be, at most `most` bytes."""
        size = self.of(topic).size
        return most if size is None else min(most, size)

    def forget(self, topic: str) -> None:
        """Ask anew for a topic before it is judged by: something was refused there."""
        if topic in self._limits:
            self._limits[topic] = replace(self._limits[topic], asked_seconds=UNKNOWN.asked_seconds)

    def learn(self, topic: str, refused: int) -> None:
        """Note that a batch of `refused` bytes was too large for a topic: half of it is tried if no more is known."""
        known = self.of(topic)
        if known.size is None or known.size >= refused:
            self._limits[topic] = replace(known, size=max(SMALLEST, refused // 2), asked_seconds=UNKNOWN.asked_seconds)

    async def refresh(self, topics: Collection[str]) -> None:
        """Ask for those that were not asked for lately. Where the broker does not tell, what was learnt stays."""
        now = self._clock()
        stale = [topic for topic in topics if now - self.of(topic).asked_seconds > FRESH]
        if not stale:
            return
        configs = await self._ask(stale)
        for topic in stale:
            config = configs.get(topic, {})
            size = config.get(SIZE, "")
            known = int(size) if size.isdecimal() else self.of(topic).size
            self._limits[topic] = TopicLimit(known, "compact" in config.get(CLEANUP, ""), now)
