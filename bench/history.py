"""What history takes: bytes per service and minute in the topic, memory of the gate and of who reads, time per usage.

`python -m bench.history` prints it. No broker is needed: batches are compressed as the producer does it.
"""

import random
import time
import tracemalloc

import zstandard

from gate.admission.model import MS, LaneUsage, LimitUsage, Reason, Total, Usage, Verdict
from gate.kafka.cluster import HISTORY
from gate.kafka.history import HistoryWriter
from gate.observe.history import Recorder, stretches_of
from gate.observe.track import FINE_MS, Track

AT_MS = 1_764_025_123_456
BATCH_BYTES = 80  # header of a batch, and of its one record
MINUTES = 4


class Service:
    """Comes at a rate of its own, of which nine tenths may go."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self._random = name, random.Random(seed)
        self._rate = self._random.choice([2, 30, 400, 3000])
        self._at_ms = AT_MS + self._random.randrange(1000)
        self._admitted = self._random.randrange(10**9)
        self._waiting = self._random.choice([0, 0, 500, 200_000])
        self._delayed = self._pulled = 10**6

    def usage(self, seconds: int) -> Usage:
        """Return how it is so much later."""
        self._at_ms += seconds * 1000 + self._random.randrange(-8, 9)
        mean = self._rate * seconds
        came = max(0, int(self._random.gauss(mean, mean**0.5)))
        went = min(self._waiting + came, int(mean * 0.9))
        first = min(came, went) // 2
        self._admitted += first
        self._delayed += came - first
        self._pulled += went - first
        self._waiting += came - went
        return Usage(
            service=self.name, at=self._at_ms * MS, policy="9f2c01",
            limits=(LimitUsage(f"{self.name}.rate", 150, self._rate * 0.9, 0.4),), requests_per_second=99.5,
            units_per_second=120.0, offered_per_second=180.0, tokens=90.0, window_fill=0.0,
            lanes=(LaneUsage("", 1.0, self._waiting, self._waiting, 1, 1.0),),
            totals=(
                Total("", Verdict.ADMITTED, None, False, self._admitted),
                Total("", Verdict.ADMITTED, None, True, self._pulled),
                Total("", Verdict.DELAYED, Reason.RATE, False, self._delayed),
            ),
            breach_since=None, last_refusal=None, paused_until=None, in_flight=None, tenants=4, unknown_lanes=0,
        )  # fmt: skip


def written(services: int, every: int) -> tuple[float, float]:
    """Return bytes in the topic, and us of the gate, per service and minute; each is told of every so many seconds."""
    all_services = [Service(f"service-{number:05}", number) for number in range(services)]
    recorder, zstd = Recorder("host-a:4711"), zstandard.ZstdCompressor()
    size, spent = 0, 0.0
    for second in range(0, 60 * MINUTES, every):
        told = [service.usage(every) for service in all_services]
        begin = time.process_time()
        for usage in told:
            recorder.take(usage)
        if second % HistoryWriter.EVERY >= HistoryWriter.EVERY - every:
            size += sum(len(zstd.compress(value)) + BATCH_BYTES for _, value in recorder.drain(HISTORY))
        spent += time.process_time() - begin
    return size / services / MINUTES, spent / services / MINUTES * 1e6


def recorded_bytes(services: int) -> int:
    """Return the memory of a gate that is about to write 8 s points of so many services."""
    all_services = [Service(f"service-{number:05}", number) for number in range(services)]
    recorder = Recorder("host-a:4711")
    for service in all_services:
        recorder.take(service.usage(8))
    list(recorder.drain(HISTORY))
    tracemalloc.start()
    for _ in range(int(HistoryWriter.EVERY) // 8 + 1):
        for service in all_services:
            recorder.take(service.usage(8))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def read_day() -> tuple[float, int]:
    """Return seconds to read a day of one of 16 services that are told of each second, and bytes of it in memory."""
    services = [Service(f"service-{number:05}", number) for number in range(16)]
    name, values = services[0].name, []
    recorder = Recorder("host-a:4711")
    for second in range(86_400):
        recorder.take(services[0].usage(1))
        if second % HistoryWriter.EVERY == 0:
            values += [value for _, value in recorder.drain(1)]
    begin = time.process_time()
    _track(values, name)
    taken = time.process_time() - begin
    tracemalloc.start()
    kept = _track(values, name)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept)
    return taken, held


def _track(values: list[bytes], name: str) -> Track:
    track = Track(AT_MS + 86_400_000 - FINE_MS)
    for value in values:
        found = stretches_of(value, name)
        assert found is not None
        track.take(*found)
    return track


def main() -> None:
    print(f"written every {HistoryWriter.EVERY:g} s, in {HISTORY} partitions, zstd")
    print("services  told each  bytes per service and minute  us of the gate per service and minute")
    for services, every in ((1, 1), (16, 1), (1_024, 1), (10_000, 8)):
        size, spent = written(services, every)
        print(f"{services:8,}  {every:7} s  {size:28.0f}  {spent:37.0f}")
    print(f"memory of a gate with 10,000 services: {recorded_bytes(10_000) / 1e6:.1f} MB")
    taken, held = read_day()
    print(f"a day of one service: {taken:.2f} s to put together, {held / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
