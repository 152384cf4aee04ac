"""Clocks that drift, and events in their true order."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Clock:
    """Shows `offset` + true time, fast by `ppm` millionths; `stood` is what it lost while the machine was suspended."""

    offset: int
    ppm: int
    stood: int = 0

    def at(self, true: int) -> int:
        true -= self.stood
        return self.offset + true + true * self.ppm // 1_000_000

    def true(self, local: int) -> int:
        """The first true time at which it shows `local`."""
        true = (local - self.offset) * 1_000_000 // (1_000_000 + self.ppm) + self.stood
        while self.at(true) < local:
            true += 1
        return true


class Events:
    """True time, in ns."""

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, time: int, call: Callable[..., Any], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (max(time, self.now), self._count, call, args))

    def after(self, delay: int, call: Callable[..., Any], *args: Any) -> None:
        self.at(self.now + delay, call, *args)

    def run(self, end: int) -> None:
        while self._heap and self._heap[0][0] <= end:
            self.now, _, call, args = heapq.heappop(self._heap)
            call(*args)
        self.now = end
