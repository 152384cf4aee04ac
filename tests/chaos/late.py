"""Late and lost requests, hijacked transactional ids, zombies: what tears transactions in Kafka's protocol itself.

All traffic of the gates goes through a proxy that holds requests back for longer than their sender waits and then
delivers them, into whatever transaction is open by then.
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic, time

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from gate.kafka.local import LocalBroker
from gate.kafka.local.config import free_port
from gate.policy import parse_policy
from tests.chaos import load
from tests.chaos.load import NAMES, PARTITIONS, PREFIX, SHARDS, SHARES
from tests.chaos.members import Incident, owned
from tests.chaos.proxy import Api, Delay, Drop, Proxy, Request
from tests.chaos.run import BROKER_PROPERTIES, Report, drain, errors_of, judge_topics
from tests.system.gates import GateProcess, create

DEADLINE = 1.0  # seconds after which a gate gives a call up
SESSION = 1.0
GATES = 2
OURS = ("offer", "hijack")  # clients that the proxy leaves alone
STEPS = (Api.PRODUCE, Api.END_TXN, Api.ADD_PARTITIONS, Api.TXN_OFFSET_COMMIT, Api.INIT_PRODUCER_ID, Api.ADD_OFFSETS)
START_DEADLINE = 40.0


@dataclass(frozen=True, slots=True)
class Dose:
    """How much of each there is to be."""

    late: int  # requests delivered after their sender has given up
    lost: int  # requests or answers that never arrive
    hijacks: int
    pauses: int

    @property
    def all(self) -> int:
        return self.late + self.lost + self.hijacks + self.pauses


class Network:
    """Decides which requests are late: `dose` of them, one now and then, each step of a transaction in turn."""

    def __init__(self, random: Random, dose: Dose, gap: float) -> None:
        self._random = random
        self._gap = gap
        fates = [Delay(DEADLINE + random.uniform(0.1, 1.5)) for _ in range(dose.late)]
        more: list[Delay | Drop] = [Drop(after=bool(i % 2)) for i in range(dose.lost)]
        self._fates = [*fates, *more]
        random.shuffle(self._fates)
        self._next = 0.0
        self._step = 0
        self.heartbeats = 0

    @property
    def left(self) -> int:
        return len(self._fates)

    def judge(self, request: Request) -> Delay | Drop | None:
        if request.client.startswith(OURS) or not self._fates or monotonic() < self._next:
            return None
        if request.api == Api.HEARTBEAT and self._random.random() < 0.01:
            self.heartbeats += 1
            return Delay(1.5 * SESSION)
        if request.api != STEPS[self._step % len(STEPS)]:
            return None
        self._step += 1
        self._next = monotonic() + self._random.expovariate(1 / self._gap)
        return self._fates.pop()


async def run(
    folder: Path, *, seed: int, dose: Dose, requests: int, seconds: float, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Offer `requests` within `seconds` through gates behind a bad network, then judge what is there."""
    random = Random(f"late {seed}")
    report = Report(seed)
    text = load.policy(requests / seconds)
    port, outside = free_port(), free_port()
    network = Network(random, dose, 0.5 * seconds / max(1, dose.late + dose.lost))
    proxy = Proxy(outside, port, network.judge)
    await proxy.start()
    properties = BROKER_PROPERTIES | {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{outside}"}
    broker = await asyncio.to_thread(LocalBroker.start, port=port, properties=properties)
    gates: list[GateProcess] = []
    begun = monotonic()
    try:
        await create(broker.bootstrap, *(NAMES.requests(s) for s in SHARES), partitions=PARTITIONS)
        for number in range(GATES):
            place = folder / f"gate{number}"
            place.mkdir()
            gates.append(
                GateProcess(
                    place, f"127.0.0.1:{outside}", PREFIX, text,
                    env={"GATE_SESSION_TIMEOUT": str(SESSION)},
                    program=("-m", "tests.chaos.altered", "--deadline", str(DEADLINE)),
                )
            )  # fmt: skip
        for gate in gates:
            await asyncio.to_thread(gate.wait_for, "assigned", START_DEADLINE)
        report.times["start"], begun = monotonic() - begun, monotonic()
        offering = load.Offering(broker.bootstrap, requests, seconds, client_id="offer")
        async with asyncio.TaskGroup() as group:
            group.create_task(offering.run())
            group.create_task(_hijack(broker.bootstrap, random, dose.hijacks, seconds, report, say))
            group.create_task(_pause(gates, random, dose.pauses, seconds, report, say))
        while network.left and monotonic() < begun + 2 * seconds:
            await asyncio.sleep(0.1)
        for (what, api), count in sorted(proxy.struck.items()):
            report.notes.append(f"{what} {Api(api).name}: {count}")
        if network.left:
            report.problems.append(f"{network.left} requests that were to be late or lost did not come")
        proxy.judge = lambda _: None
        report.offered = sum(offering.sent.values())
        report.times["faults"], begun = monotonic() - begun, monotonic()
        await drain(broker.bootstrap, report)
        report.times["drain"], begun = monotonic() - begun, monotonic()
        for gate in gates:
            code = await asyncio.to_thread(gate.stop)
            assert code == 0, gate.text()
        report.gate_errors = errors_of([gate.log for gate in gates])
        await judge_topics(report, parse_policy(f"prefix: {PREFIX}\n{text}"), broker.bootstrap)
        report.times["check"] = monotonic() - begun
    finally:
        for gate in gates:
            if gate.process.poll() is None:
                gate.process.send_signal(signal.SIGCONT)
            gate.close()
        await proxy.stop()
        await asyncio.to_thread(broker.stop)
    return report


async def _hijack(
    bootstrap: str, random: Random, count: int, seconds: float, report: Report, say: Callable[[str], None]
) -> None:
    """Take the transactional ids of owners: what a second gate would do that believes to own the shard."""
    for _ in range(count):
        await asyncio.sleep(random.uniform(0.5, 1.3) * 0.8 * seconds / count)
        shard = random.randrange(SHARDS)
        thief = AIOKafkaProducer(bootstrap_servers=bootstrap, client_id="hijack", transactional_id=f"{PREFIX}-{shard}")
        try:
            async with asyncio.timeout(5):
                await thief.start()
        except (KafkaError, TimeoutError) as error:
            say(f"not hijacked: {error!r}")
        else:
            report.incidents.append(Incident(time(), "hijack", shards=frozenset({shard})))
            say(f"hijacked shard {shard}")
        finally:
            await thief.stop()


async def _pause(
    gates: list[GateProcess], random: Random, count: int, seconds: float, report: Report, say: Callable[[str], None]
) -> None:
    """Make zombies: a gate that sleeps through its session and goes on where it was."""
    for _ in range(count):
        await asyncio.sleep(random.uniform(0.2, 1.0) * max(0.2, 0.8 * seconds / count - 2 * SESSION))
        gate = random.choice(gates)
        report.incidents.append(Incident(time(), "pause", shards=owned(gate)))
        gate.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(SESSION + random.uniform(0.3, 1.5))
        gate.process.send_signal(signal.SIGCONT)
        report.incidents.append(Incident(time(), "resume"))
        say("a zombie wakes")
