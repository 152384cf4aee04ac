"""What a simulated broker does not take: drawn from a seed by a request's content, so that it is refused for good."""

from dataclasses import dataclass
from random import Random
from zlib import crc32

from gate.shard.records import Partition

ALL = 1_000


@dataclass(frozen=True, slots=True)
class Picky:
    """Which topics refuse which part of the requests. `names`: the broker tells which record it was."""

    salt: int = 0
    part: int = 0  # of a thousand
    topics: tuple[str, ...] = ("admitted", "delayed")
    stubborn: int = 0  # of a thousand, whose value the rejected topic does not take either
    names: bool = True

    def _draw(self, key: bytes | None, value: bytes | None) -> int:
        return crc32(b"%d %b %b" % (self.salt, key or b"-", value or b"-")) % ALL

    def is_strange(self, key: bytes | None, value: bytes | None) -> bool:
        """Tell whether an output topic refuses a request."""
        return self._draw(key, value) < self.part

    def is_stubborn(self, key: bytes | None, value: bytes | None) -> bool:
        """Tell whether the rejected topic refuses it with its value."""
        return value is not None and self._draw(key, value) < self.stubborn

    def refuses(self, partition: Partition, key: bytes | None, value: bytes | None) -> bool:
        """Tell whether the broker refuses a record."""
        kind = partition.topic.split(".")[1]
        if kind == "rejected":
            return self.is_stubborn(key, value)
        return kind in self.topics and self.is_strange(key, value)


EASY = Picky()


def draw(seed: int) -> Picky:
    """Draw what a broker refuses."""
    random = Random(f"picky {seed}")
    part = random.choice((20, 100, 400))
    return Picky(
        salt=seed,
        part=part,
        topics=random.choice((("admitted", "delayed"), ("admitted",), ("delayed",))),
        stubborn=random.choice((0, part // 2, part, 2 * part)),
        names=random.random() < 0.6,
    )
