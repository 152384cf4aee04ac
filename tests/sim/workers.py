"""Workers of a simulated world: they take what is admitted and tell that it is done; late, twice, or never."""

from collections.abc import Callable
from random import Random

from gate.protocol.feedback import Finished, encode
from gate.protocol.headers import is_running, original_id
from gate.protocol.topics import Names
from gate.shard.records import Outgoing, Partition
from tests.sim.client import Network
from tests.sim.log import Broker


class Workers:
    """All workers of a world. A worker that is killed tells nothing, and whoever takes over tells later."""

    def __init__(
        self, network: Network, broker: Broker, names: Names, random: Random, seconds: float, *, honest: bool
    ) -> None:
        self._network = network
        self._broker = broker
        self._names = names
        self._random = random
        self._seconds = seconds  # that a job takes
        self._honest = honest
        self._read: dict[Partition, int] = {}
        self._watched: list[tuple[Partition, Callable[[], None]]] = []

    def watch(self, service: str, partitions: int) -> None:
        """Work for a service from now on."""
        for number in range(partitions):
            partition = Partition(self._names.admitted(service), number)
            look = self._looks(service, partition)
            self._watched.append((partition, look))
            self._broker.log(partition).watchers[look] = None

    def stop(self) -> None:
        """Take no more."""
        for partition, look in self._watched:
            self._broker.log(partition).watchers.pop(look, None)

    def _looks(self, service: str, partition: Partition) -> Callable[[], None]:
        def look() -> None:
            log = self._broker.log(partition)
            start, stable = self._read.get(partition, 0), log.stable
            self._read[partition] = max(start, stable)
            for record in log.committed(start, stable):
                request = original_id(record.headers)
                if request is not None and is_running(record.headers):
                    self._work(service, partition.number, request)

        return look

    def _work(self, service: str, number: int, request: str) -> None:
        random = self._random
        seconds = self._seconds if self._honest else self._seconds * random.choice((0.0, 0.1, 1, 1, 5))
        fate = "once" if self._honest else random.choice(("once", "once", "once", "twice", "late", "never", "strange"))
        if fate == "never":
            return
        if fate == "late":
            seconds += random.choice((20, 200))
        self._tell(seconds, service, number, [request])
        if fate == "twice":
            self._tell(seconds + random.choice((0.0, 0.01, 3)), service, random.choice((0, number)), [request, request])
        if fate == "strange":
            self._tell(seconds / 2, service, number, ["gate.requests.plain-0@0", request[:-1] or "?", "nobody"])

    def _tell(self, seconds: float, service: str, number: int, ids: list[str]) -> None:
        def send() -> None:
            if self._network.down:
                self._network.later(1.0, send)
                return
            self._broker.send(partition, [Outgoing(None, encode(Finished(ids)), None, ())])

        partition = Partition(self._names.feedback(service), number)
        self._network.later(seconds, send)
