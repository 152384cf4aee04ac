"""Fetch requests and their answers as bytes. aiokafka makes objects of each of a thousand partitions, at every poll.

It takes a request of any form; this is that of version 10 (Kafka 2.1 and later). For an older broker its own is used.
From version 11 on a follower answers as well (KIP-392), with what it has copied so far. Who goes on asking one that led
before notices nothing of the move: it reads late, and nothing at all while that broker shuts down.
Layout: https://kafka.apache.org/protocol#The_Messages_Fetch
"""

from collections.abc import Iterator, Sequence
from io import BytesIO
from struct import Struct
from typing import Any, NamedTuple

from gate.kafka.aio.compat.shared import FetchRequest, FetchRequest_v10
from gate.kafka.aio.leader_epochs import NOT_KNOWN, Epochs, error_for
from gate.shard.records import Partition

_REQUEST = Struct(">iiiibiii")  # replica, wait, least and most bytes, isolation, session and its epoch, topics
_SHORT, _INT = Struct(">h"), Struct(">i")
_WANTED = Struct(">iiqqi")  # number, leader epoch, offset, log start, most bytes
_END = _INT.pack(0)  # nothing to forget
_ANSWER = Struct(">ihii")  # throttle time, error, session, topics
_PARTITION = Struct(">ihqqqi")  # number, error, high watermark, last stable offset, log start, aborted transactions
_ABORTED = Struct(">qq")  # producer id, first offset


class Answer(NamedTuple):
    """What a broker says of one partition: an error code, or the bytes of its record batches."""

    partition: Partition
    code: int
    aborted: Sequence[tuple[int, int]]  # producer id and first offset
    batches: bytes | None


class Answers:
    """Stands in for aiokafka's FetchResponse_v10. Partitions of which there is nothing to say are left out."""

    def __init__(self, error_code: int, answers: list[Answer]) -> None:
        self.error_code = error_code  # of the request as a whole
        self.answers = answers

    @classmethod
    def decode(cls, data: BytesIO) -> "Answers":
        """Read it from the rest of `data`."""
        return cls.read(data.getvalue(), data.tell())  # what it was made from; getbuffer() would copy all of it

    @classmethod
    def read(cls, buffer: bytes | memoryview, at: int) -> "Answers":
        """Read it from all that `buffer` holds from `at` on."""
        _, error, _, topics = _ANSWER.unpack_from(buffer, at)
        at += _ANSWER.size
        found: list[Answer] = []
        for _ in range(topics):
            length = _SHORT.unpack_from(buffer, at)[0]
            name = buffer[at + 2 : at + 2 + length]
            at += 2 + length
            partitions = _INT.unpack_from(buffer, at)[0]
            at += 4
            for _ in range(partitions):
                number, code, _, _, _, count = _PARTITION.unpack_from(buffer, at)
                at += _PARTITION.size
                end = at + _ABORTED.size * max(0, count)
                size = _INT.unpack_from(buffer, end)[0]
                start = end + _INT.size
                if code or size > 0:
                    aborted = list(_ABORTED.iter_unpack(buffer[at:end]))
                    batches = bytes(buffer[start : start + size]) if size > 0 else None
                    found.append(Answer(Partition(str(name, "utf-8"), number), code, aborted, batches))
                at = start + max(0, size)
        if at != len(buffer):
            raise ValueError(f"a fetch answer of {len(buffer)} bytes ends at {at}")
        return cls(error, found)


class _FetchV10(FetchRequest_v10):  # type: ignore[misc]
    RESPONSE_TYPE = Answers
    epochs: Epochs

    def encode(self) -> bytes:
        parts = [
            _REQUEST.pack(
                self.replica_id, self.max_wait_time, self.min_bytes, self.max_bytes, self.isolation_level,
                self.session_id, self.session_epoch, len(self.topics),
            )
        ]  # fmt: skip
        for topic, partitions in self.topics:
            name = topic.encode()
            parts += _SHORT.pack(len(name)), name, _INT.pack(len(partitions))
            epochs = self.epochs
            parts += [
                _WANTED.pack(number, epochs.get((topic, number), NOT_KNOWN), offset, -1, most)
                for number, offset, most in partitions
            ]
        parts.append(_END)
        return b"".join(parts)


class Fetch(FetchRequest):  # type: ignore[misc]
    """A fetch request; topics are (name, [(partition, offset, most bytes)]), `epochs` those by which they are led."""

    def __init__(
        self,
        wait_ms: int,
        least: int,
        most: int,
        isolation: int,
        topics: Sequence[tuple[str, list[tuple[int, int, int]]]],
        epochs: Epochs = {},  # noqa: B006 - it is only read
    ) -> None:
        super().__init__(wait_ms, least, most, isolation, topics)
        self._asked = wait_ms, least, most, isolation
        self._wanted, self._epochs = topics, epochs

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return it in the newest form that only a leader answers; aiokafka 0.13 stops at version 4."""
        least, most = versions.get(self.API_KEY, (0, 0))
        ours = FetchRequest_v10.API_VERSION
        return self.build(FetchRequest_v10) if least <= ours <= most else super().prepare(versions)

    def build(self, request_struct_class: Any) -> Any:
        """Return it in a form."""
        if request_struct_class is not FetchRequest_v10:
            return super().build(request_struct_class)
        form = _FetchV10(-1, *self._asked, 0, -1, self._wanted, [])  # no session
        form.epochs = self._epochs
        return form


def answers_of(response: Any) -> Iterator[Answer]:
    """Yield what a broker has answered, in whichever form. Raises KafkaError if it refused all of the request."""
    if code := getattr(response, "error_code", 0):  # since version 7
        raise error_for(code)
    if isinstance(response, Answers):
        yield from response.answers
        return
    for topic, partitions in response.topics:
        for number, code, _highwater, *rest in partitions:  # up to version 10 they end with (aborted, records)
            yield Answer(Partition(topic, number), code, rest[-2] or (), rest[-1] or None)
