"""An in-memory Kafka: partitions, transactions, group offsets, as the broker keeps them under the protocol of aiokafka.

What matters is kept as it is, holes included: partition leaders and coordinator know a producer's epoch each by
themselves, so a Produce or EndTxn that arrives late is refused only where a newer epoch has been seen, and otherwise
falls into whatever transaction is open then. Markers are written after the answer to EndTxn and take an offset.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from gate.shard.records import CommittedOffset, Fetched, Headers, Outgoing, Partition
from tests.sim.picky import EASY, Picky

TRANSACTION_TIMEOUT = 30.0
REAP_EVERY = 10.0


class KafkaError(Exception):
    """What a simulated broker answers."""


class FencedError(KafkaError):
    """A newer epoch has been seen."""


class RefusedError(KafkaError):
    """Some records to a partition are not taken, and so none of the batch: `faulty` are their places in it."""

    def __init__(self, partition: Partition, faulty: Sequence[int]) -> None:
        super().__init__(f"{partition}: {faulty}")
        self.partition = partition
        self.faulty = faulty


class ConcurrentTransactionsError(KafkaError):
    """The last transaction is not complete yet; ask again."""


class OffsetNotAvailableError(KafkaError):
    """A new leader does not know yet where its log ends; ask again."""


@dataclass(slots=True, eq=False)
class Transaction:
    """What one producer has open in one partition. `committed` None: open. `ended_ms`: when its marker came."""

    first: int
    committed: bool | None = None
    ended_ms: int = -1


NONE = Transaction(-1, True)  # of records outside of any transaction
MARKER = Transaction(-1, False)  # a control record is never read


@dataclass(slots=True)
class Stored:
    """A record in a partition."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    transaction: Transaction = NONE


class Trace:
    """A hash over everything that happens, in order: equal for equal runs."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._hash = blake2b(digest_size=12)
        self._show = show

    def add(self, *parts: object) -> None:
        line = repr(parts)
        self._hash.update(line.encode())
        if self._show is not None:
            self._show(" ".join(map(str, parts)))

    def __str__(self) -> str:
        return self._hash.hexdigest()


class PartitionLog:
    """One partition at its leader.

    Who has just been elected has all that is acknowledged, and does not know it yet: it shows what is below its high
    watermark, answers with nothing to who asks for more, and tells nobody where the log ends.
    """

    def __init__(self, partition: Partition, trace: Trace) -> None:
        self.partition = partition
        self.stored: list[Stored] = []
        self.open: dict[str, Transaction] = {}
        self.epochs: dict[str, int] = {}
        self.watchers: dict[Callable[[], None], None] = {}
        self.lags_at: int | None = None  # the high watermark of a new leader, as long as it lags
        self._trace = trace
        self._newest: dict[str, bytes] = {}  # what compaction would leave of what lies before `_folded`
        self._folded = 0

    @property
    def end(self) -> int:
        return len(self.stored)

    @property
    def high(self) -> int:
        """The high watermark: where what is shown ends."""
        return len(self.stored) if self.lags_at is None else self.lags_at

    @property
    def stable(self) -> int:
        """The last stable offset: the first one that is not decided yet."""
        return min((t.first for t in self.open.values()), default=len(self.stored))

    def elect(self, lag: int) -> None:
        """Have another leader, which does not know of the last `lag` offsets that they are kept."""
        self.lags_at = max(0, self.high - lag)

    def catch_up(self) -> None:
        """Let the leader know what its followers have."""
        self.lags_at = None
        self._arrived()

    def known_end(self) -> int:
        """Return where the log ends, as ListOffsets does. Raises OffsetNotAvailableError."""
        if self.lags_at is not None:
            raise OffsetNotAvailableError(f"{self.partition}: its leader is new")
        return len(self.stored)

    def append(
        self, records: Iterable[Outgoing], now_ms: int, *, own_time: bool, producer: str = "", epoch: int = 0
    ) -> list[int]:
        """Append records; `own_time` False is LogAppendTime. Raises FencedError."""
        transaction = NONE
        if producer:
            self._check(producer, epoch)
            transaction = self.open.setdefault(producer, Transaction(len(self.stored)))
        offsets = []
        for key, value, timestamp, headers in records:
            offset = len(self.stored)
            stamp = timestamp if own_time and timestamp is not None else now_ms
            self.stored.append(Stored(offset, stamp, key, value, headers, transaction))
            self._trace.add("append", *self.partition, offset, producer, epoch, key, value, headers)
            offsets.append(offset)
        self._arrived()
        return offsets

    def mark(self, producer: str, epoch: int, now_ms: int, *, commit: bool) -> None:
        """Write the marker that ends what a producer has open here. Raises FencedError."""
        self._check(producer, epoch)
        self._trace.add("marker", *self.partition, len(self.stored), producer, epoch, commit)
        transaction = self.open.pop(producer, None)
        if transaction is not None:
            transaction.committed, transaction.ended_ms = commit, now_ms
        self.stored.append(Stored(len(self.stored), 0, None, None, (), MARKER))
        self._arrived()

    def _check(self, producer: str, epoch: int) -> None:
        if epoch < self.epochs.get(producer, epoch):
            raise FencedError(f"{self.partition}: epoch {epoch} of {producer} is over")
        self.epochs[producer] = epoch

    def _arrived(self) -> None:
        for watcher in list(self.watchers):
            watcher()

    def committed(self, start: int = 0, stop: int | None = None) -> Iterator[Stored]:
        """Yield what a reader with `read_committed` sees."""
        for offset in range(start, self.stable if stop is None else min(stop, self.stable)):
            record = self.stored[offset]
            if record.transaction.committed:
                yield record

    def fetch(self, start: int, limit: int) -> Fetched | None:
        """Return up to `limit` offsets from `start` on, as a fetch does; None: nothing there yet."""
        stop = min(start + limit, self.stable, self.high)
        if stop <= start:
            return None
        records = list(self.committed(start, stop))
        return Fetched(records, stop, sum(100 + len(r.value or b"") for r in records))

    def fetch_all(self, start: int, limit: int) -> Fetched | None:
        """Do the same as a reader that takes what is not committed, too."""
        stop = min(start + limit, self.high)
        if stop <= start:
            return None
        records = [record for record in self.stored[start:stop] if record.transaction is not MARKER]
        return Fetched(records, stop, sum(100 + len(r.value or b"") for r in records))

    def newest(self) -> dict[str, bytes]:
        """Return the newest committed value per key. Raises OffsetNotAvailableError."""
        self.known_end()
        stable = self.stable
        for record in self.committed(self._folded, stable):
            assert record.key is not None
            if record.value is None:
                self._newest.pop(record.key.decode(), None)
            else:
                self._newest[record.key.decode()] = record.value
        self._folded = stable
        return dict(self._newest)


@dataclass(slots=True)
class Producer:
    """A transactional id at its coordinator."""

    epoch: int = -1
    since: float | None = None  # when the open transaction began
    partitions: dict[Partition, None] = field(default_factory=dict)
    offsets: bool = False  # whether the group's offsets take part
    ending: bool = False  # decided; markers are being written


class Broker:
    """All partitions, the transaction coordinator and the group's offsets. `later(seconds, function)` is its timer."""

    def __init__(
        self,
        trace: Trace,
        *,
        now: Callable[[], float],
        clock_ms: Callable[[], int],
        later: Callable[[float, Callable[[], None]], object],
        marker_delay: Callable[[], float],
        state_topic: str,
        crash: Callable[[], Callable[[], bool] | None] = lambda: None,
        picky: Picky = EASY,
    ) -> None:
        """`crash` tells at the end of each transaction whether the broker dies in the middle of it.

        It then returns what tells for each marker whether it was written; the others never are.
        """
        self.logs: dict[Partition, PartitionLog] = {}
        self.marks: dict[Partition, CommittedOffset] = {}
        self.producers: dict[str, Producer] = {}
        self.commits = 0
        self.hanging: set[tuple[str, Partition]] = set()  # what a broker that died has left open
        self._pending: dict[str, dict[Partition, CommittedOffset]] = {}
        self._offset_epochs: dict[str, int] = {}
        self._trace = trace
        self._now = now
        self._clock_ms = clock_ms
        self._later = later
        self._marker_delay = marker_delay
        self._state_topic = state_topic
        self._crash = crash
        self.picky = picky
        self._reaping = False

    def log(self, partition: Partition) -> PartitionLog:
        found = self.logs.get(partition)
        if found is None:
            found = self.logs[partition] = PartitionLog(partition, self._trace)
        return found

    def send(self, partition: Partition, records: Iterable[Outgoing], *, transactional: bool = False) -> list[int]:
        """Append as a plain producer; `transactional` leaves a marker behind, which takes an offset."""
        log = self.log(partition)
        offsets = log.append(records, self._clock_ms(), own_time=True)
        if transactional:
            log.mark("someone", 0, self._clock_ms(), commit=True)
        return offsets

    # -- transactions ----------------------------------------------------------------------------------------------

    def init(self, name: str) -> int:
        """InitProducerId: fence all earlier epochs, end what they left open; return the new epoch."""
        producer = self.producers.setdefault(name, Producer())
        if producer.ending:
            raise ConcurrentTransactionsError(name)
        producer.epoch += 1
        self._trace.add("init", name, producer.epoch)
        if producer.since is not None:
            self._end(name, producer, commit=False)
            raise ConcurrentTransactionsError(name)
        return producer.epoch

    def add(self, name: str, epoch: int, partitions: Iterable[Partition], *, offsets: bool = False) -> None:
        """AddPartitionsToTxn, AddOffsetsToTxn."""
        producer = self._current(name, epoch)
        if producer.since is None:
            producer.since = self._now()
            self._reap_later()
        producer.partitions.update(dict.fromkeys(partitions))
        producer.offsets |= offsets

    def produce(
        self, name: str, epoch: int, outputs: Mapping[Partition, Sequence[Outgoing]]
    ) -> dict[Partition, list[int]]:
        """Produce. The leaders don't ask the coordinator whether the partition was added.

        Each decides for itself: where one refuses its batch others may have taken theirs.
        """
        placed: dict[Partition, list[int]] = {}
        for partition, records in outputs.items():
            faulty = [i for i, r in enumerate(records) if self.picky.refuses(partition, r[0], r[1])]
            if faulty:
                raise RefusedError(partition, faulty)
            own_time = partition.topic != self._state_topic
            log = self.log(partition)
            placed[partition] = log.append(records, self._clock_ms(), own_time=own_time, producer=name, epoch=epoch)
        return placed

    def stamp(self, partition: Partition) -> int:
        """Return the log's timestamp for a produce to `partition` now; -1 with CreateTime."""
        return self._clock_ms() if partition.topic == self._state_topic else -1

    @property
    def offsets(self) -> dict[Partition, int]:
        """The group's committed offsets."""
        return {partition: mark.offset for partition, mark in self.marks.items()}

    def add_offsets(self, name: str, epoch: int, offsets: Mapping[Partition, CommittedOffset]) -> None:
        """TxnOffsetCommit."""
        if epoch < self._offset_epochs.get(name, epoch):
            raise FencedError(f"offsets: epoch {epoch} of {name} is over")
        self._offset_epochs[name] = epoch
        self._trace.add("offsets", name, epoch, sorted(offsets.items()))
        self._pending.setdefault(name, {}).update(offsets)

    def end(self, name: str, epoch: int, *, commit: bool) -> None:
        """EndTxn. The answer comes when it is decided, before the markers are written."""
        producer = self._current(name, epoch)
        if producer.since is None:
            raise KafkaError(f"{name} has no open transaction")
        self._end(name, producer, commit=commit)
        if commit:
            self.commits += 1

    def mend(self, name: str, epoch: int, partitions: Iterable[Partition], *, commit: bool) -> None:
        """End what is left open by a transaction of nothing, in one go: nobody dies in the middle of it here."""
        self.add(name, epoch, partitions, offsets=True)
        self.end(name, epoch, commit=commit)

    def check_settled(self, name: str) -> None:
        """Raise ConcurrentTransactionsError while markers are on their way."""
        if self.producers[name].ending:
            raise ConcurrentTransactionsError(name)

    def _current(self, name: str, epoch: int) -> Producer:
        producer = self.producers[name]
        if epoch != producer.epoch:
            raise FencedError(f"coordinator: epoch {epoch} of {name} is over")
        if producer.ending:
            raise ConcurrentTransactionsError(name)
        return producer

    def _end(self, name: str, producer: Producer, *, commit: bool) -> None:
        partitions, offsets, epoch = producer.partitions, producer.offsets, producer.epoch
        producer.partitions, producer.offsets, producer.since, producer.ending = {}, False, None, True
        self._trace.add("end", name, epoch, commit)

        def write(is_written: Callable[[], bool] = lambda: True) -> None:
            for partition in partitions:
                if is_written():
                    self.log(partition).mark(name, epoch, self._clock_ms(), commit=commit)
                    self.hanging.discard((name, partition))
                else:
                    self.hanging.add((name, partition))
            if offsets and is_written():
                pending = self._pending.pop(name, {})
                self._offset_epochs[name] = epoch
                if commit:
                    self.marks.update(pending)
            producer.ending = False

        if (is_written := self._crash()) is not None:
            write(is_written)
            return
        delay = self._marker_delay()
        if delay:
            self._later(delay, write)
        else:
            write()

    def _reap_later(self) -> None:
        if not self._reaping:
            self._reaping = True
            self._later(REAP_EVERY, self._reap)

    def _reap(self) -> None:
        """Abort transactions that have been open for too long, and fence their producers."""
        self._reaping = False
        for name, producer in self.producers.items():
            if producer.since is None:
                continue
            if self._now() - producer.since >= TRANSACTION_TIMEOUT:
                producer.epoch += 1
                self._end(name, producer, commit=False)
            else:
                self._reap_later()

    def open_transactions(self) -> list[str]:
        """Return what is not ended."""
        open_ = [name for name, producer in self.producers.items() if producer.since is not None or producer.ending]
        return open_ + [f"{t}-{n} by {name}" for (t, n), log in self.logs.items() for name in log.open]
