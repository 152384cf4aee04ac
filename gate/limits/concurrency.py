"""Limits of concurrency: how many requests may be under way at once, whatever they cost."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from gate.limits.checks import check_count


@dataclass(frozen=True, slots=True)
class InFlight:
    """At most `capacity` requests that are admitted and that a consumer group has not finished, by its lag."""

    capacity: int
    worker_group: str
    reason: ClassVar[str] = "in-flight"
    name: ClassVar[str] = "in-flight"
    per_second: ClassVar[float] = math.inf  # as fast as workers are

    def __post_init__(self) -> None:
        check_count("max_in_flight", self.capacity, "requests")

    def words(self, spell_rate: Callable[[Any], str], spell_duration: Callable[[int], str]) -> str:  # noqa: ARG002
        """Say in a few words what it allows."""
        return f"{self.capacity} in flight to {self.worker_group}"


@dataclass(frozen=True, slots=True)
class Running:
    """At most `capacity` requests that are admitted and that no worker has told to be done."""

    capacity: int
    reason: ClassVar[str] = "running"
    name: ClassVar[str] = "running"
    per_second: ClassVar[float] = math.inf  # as fast as workers are

    def __post_init__(self) -> None:
        check_count("max_running", self.capacity, "requests")

    def words(self, spell_rate: Callable[[Any], str], spell_duration: Callable[[int], str]) -> str:  # noqa: ARG002
        """Say in a few words what it allows."""
        return f"{self.capacity} running"
