"""Health of a gate: whether it decides anything at all, and which of its shards wait for what."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from gate.shard.records import Blocked


class Health(NamedTuple):
    """Why nothing can be decided, by subject; else why some shards decide nothing, or not about all services."""

    faults: Mapping[str, str]
    hindered: Mapping[str, str] = {}


class Owned(Protocol):
    """A shard of this gate."""

    ready: bool

    @property
    def failures(self) -> int:
        """How often it failed since its requests last advanced."""

    @property
    def serves(self) -> bool:
        """Whether it has services."""

    def hindered(self) -> Blocked | None:
        """Return why it does not decide, or not about all of its services; None: it does."""


def health_of(shards: Mapping[int, Owned], taken: set[int]) -> Health:
    """Return the health of a gate with these shards; `taken` is its memory of those that it has tried to take over.

    A gate is as good as none while it takes over its first shards, and where none of those that have services decides.
    One that waits for a broker is no reason to take the whole gate away: another one would wait as well.
    """
    is_new = not taken
    taken |= {number for number, shard in shards.items() if shard.ready or shard.failures}
    found = {number: why for number, shard in shards.items() if (why := shard.hindered()) is not None}
    said = {f"shard {number}": blocked.why for number, blocked in sorted(found.items())}
    serving = [number for number, shard in shards.items() if shard.serves] or list(shards)
    if is_new and not shards.keys() <= taken:
        taken.clear()
        return Health(said)
    if serving and all(number in found and found[number].wholly for number in serving):
        return Health(said)
    return Health({}, said)
