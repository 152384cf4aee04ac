"""What is drawn from a seed: policies, who sends what when, and what goes wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from gate.policy import Policy, parse_policy
from gate.protocol.topics import Names
from gate.shard.records import Outgoing, Partition
from gate.shard.state import PULLS
from tests.sim.client import Fate, Faults
from tests.sim.picky import EASY, Picky

NAMES = Names()
PARTITIONS = 2
START_MS = 1_764_000_000_000  # the broker's clock at simulated time 0
LENGTHS = (0.25, 0.5, 1.0, 1.0, 2.25)  # of the hours asked for; their mean is 1
LONG = 48.0  # hours, of every fiftieth run

POLICIES = """
defaults: {{requests_per_second: {rate}, burst_size: {burst}, window_size: 20, window_limit: {window}, max_delay: 7200}}
groups:
  runs: {{max_running: 3}}
  pair: {{requests_per_second: {rate}, burst_size: {burst}, window_size: 30, window_limit: {window}}}
services:
  plain: {{deduplicate: 5m}}
  slow: {{requests_per_second: {window}/min, burst_size: {rate}}}
  lanes: {{deduplicate: 1h, priorities: {{interactive: 6, default: 3, batch: 1}}}}
  tenants:
    deduplicate: 1h
    tenants: {{default: {{requests_per_second: 1, burst_size: 2}}, acme: {{requests_per_second: 2, burst_size: 4}}}}
  left: {{group: pair, requests_per_second: 20, burst_size: 20, window_limit: 400}}
  right: {{group: pair, requests_per_second: 20, burst_size: 20, window_limit: 400}}
  hold: {{overflow: hold, deduplicate: 1h}}
  holdtenants: {{overflow: hold, tenants: {{default: {{requests_per_second: 1, burst_size: 2}}}}}}
  reject: {{overflow: reject, deduplicate: {{for: 1m, by: key-of-mine}}}}
  costly: {{}}
  short: {{max_delay: {burst}, deduplicate: 20}}
  windows: {{window_limit: {burst}, window_size: 10, windows: [{{limit: {window}, size: 60}}]}}
  runs: {{requests_per_second: 50, burst_size: 50, window_limit: 1000, max_running: {rate}, running_timeout: 60}}
  runtenants:
    max_running: 4
    running_timeout: 60
    requests_per_second: 50
    burst_size: 50
    window_limit: 1000
    priorities: {{interactive: 6, default: 3}}
    tenants: {{default: {{max_running: 1}}, acme: {{max_running: 2}}}}
  runleft: {{group: runs, requests_per_second: 50, burst_size: 50, window_limit: 1000, running_timeout: 60}}
  runright: {{group: runs, requests_per_second: 50, burst_size: 50, window_limit: 1000, running_timeout: 60}}
  runhold: {{overflow: hold, requests_per_second: 50, window_limit: 1000, max_running: 2, running_timeout: 60}}
  hot: {{requests_per_second: 10, burst_size: 10, window_size: 20, window_limit: 1{window}}}
"""
VARIANTS = ((2, 5, 30), (3, 4, 40), (1, 8, 20))
SERVICES = (
    "plain",
    "slow",
    "lanes",
    "tenants",
    "left",
    "hold",
    "holdtenants",
    "reject",
    "costly",
    "short",
    "windows",
    "hot",
)
RUNS = ("runs", "runtenants", "runleft", "runhold")  # of which workers tell when requests are done
MALFORMED = (
    ("gate-cost", b"NaN"),
    ("gate-cost", b"0"),
    ("gate-cost", b"9223372036854775808"),
    ("gate-priority", b"\xff"),
    ("gate-tenant", None),
    ("gate-deadline", b"soon"),
)


@cache
def policy(variant: int) -> Policy:
    """Return one of the policies between which runs switch."""
    rate, burst, window = VARIANTS[variant]
    return parse_policy(POLICIES.format(rate=rate, burst=burst, window=window))


TOGETHER = 0.5  # of the runs
RUNNING = 0.3  # of the runs: with a service of which only so many may run
TAKE_OVER = 10.0  # seconds after a fault in which a shard may have another owner


class Kind:
    """Faults that come by the clock; those that come with a request are `Fate`s."""

    KILL = "kill"
    PAUSE = "pause"
    EXPEL = "expel"  # the group drops a member that does not know it yet
    LEAVE = "leave"
    JOIN = "join"
    REBALANCE = "rebalance"
    DOWN = "broker down"
    POLICY = "policy"
    CLOCK = "broker clock"
    HIDE = "topic not seen"  # by whoever assigns, for a while
    COMMAND = "command"
    CANCEL = "cancel"  # some of what waits
    ELECTION = "election"  # of the leaders of some partitions
    ALL = (KILL, PAUSE, EXPEL, LEAVE, JOIN, REBALANCE, DOWN, POLICY, POLICY, CLOCK, CLOCK, HIDE, COMMAND)


class Order:
    """What operators command about what waits, or was rejected."""

    CANCEL = "cancel"
    EXPEDITE = "expedite"
    MOVE = "move"
    REDRIVE = "redrive"


@dataclass(frozen=True, slots=True)
class Offer:
    """Requests that arrive together."""

    at: float
    partition: Partition
    records: tuple[Outgoing, ...]
    transactional: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    seed: int
    seconds: float
    members: int
    shards: int
    services: tuple[str, ...]
    faults: Faults
    events: tuple[tuple[float, str], ...]
    offers: tuple[Offer, ...]
    batch: int  # records
    pulls: int
    buffer: int  # bytes
    fetch: int  # records
    runs: int  # that a window counts exactly
    look: float  # when to check in mid-run
    picky: Picky = EASY
    at_once: int = 500  # requests that a command takes in a batch
    looked_at: int = 20_000  # entries of the state that it looks at
    job: float = 2.0  # seconds that a job takes whose worker tells
    honest: bool = False  # each is told once
    orders: tuple[str, ...] = (Order.CANCEL, Order.CANCEL, Order.EXPEDITE)  # what operators command, in turn
    amid: int = 0  # kills of owners in the midst of commands

    @property
    def ill_until(self) -> float:
        """Faults happen before; what comes after must succeed."""
        return 0.8 * self.seconds

    @property
    def calm(self) -> bool:
        """Tell whether nothing goes wrong, and nothing is scaled down so far that it takes its time."""
        harmless = all(kind == Kind.CANCEL for _, kind in self.events)
        quiet = harmless and not self.faults.most and not self.picky.part
        return quiet and self.faults.slow < 0.5 and self.pulls == PULLS


def draw(seed: int, hours: float) -> Scenario:
    """Draw a run."""
    random = Random(seed)
    seconds = 3600 * (LONG if seed % 50 == 49 else hours * LENGTHS[seed % len(LENGTHS)])
    chosen = random.sample(SERVICES, random.choice((1, 1, 2, 3)))
    services = tuple(dict.fromkeys([*chosen, *(["right"] if "left" in chosen else [])]))
    runners = Random(f"running {seed}")
    runs = runners.choice(RUNS) if runners.random() < RUNNING else ""
    added = (runs, "runright") if runs == "runleft" else (runs,) if runs else ()
    episodes = sorted(random.uniform(0, 0.7 * seconds) for _ in range(random.choice((1, 2, 3))))
    episodes.append(0.85 * seconds)  # after the last fault
    offers = sorted(_offers(random, services, episodes), key=lambda offer: offer.at)
    offers = [
        *_scheduled(Random(f"start {seed}"), offers),
        *_scheduled(Random(f"later {seed}"), [*_offers(runners, added, episodes)]),
    ]
    offers = _named(Random(f"id {seed}"), offers)
    offers.sort(key=lambda offer: offer.at)
    faults, events = Faults(0, 0), []
    orders = Random(f"orders {seed}")
    if seed % 4:
        fates = tuple(Fate)[1:]
        if random.random() < 0.5:
            fates = tuple(random.sample(fates, 2))
        faults = Faults(
            random.choice((0.02, 0.05, 0.2)), random.choice((2, 5, 10)), fates, random.choice((0.0, 0.1)),
            torn=Random(f"torn {seed}").choice((0.0, 0.02, 0.1, 0.1)),
        )  # fmt: skip
        for _ in range(random.choice((0, 1, 3, 6))):
            at = random.choice(offers).at + random.uniform(-1, 10)
            events.append((min(max(0.0, at), 0.8 * seconds), random.choice(Kind.ALL)))
        elections = Random(f"election {seed}")
        for _ in range(elections.choice((0, 2, 8, 24))):
            at = elections.choice(offers).at + elections.uniform(0, elections.choice((0.5, 2, 30)))
            events.append((min(max(0.0, at), 0.8 * seconds), Kind.ELECTION))
        if elections.random() < TOGETHER:  # who takes over meets leaders that are new, as when a host dies
            fates = [at for at, kind in events if kind in {Kind.KILL, Kind.EXPEL, Kind.LEAVE, Kind.REBALANCE}]
            more = [at + elections.uniform(0, TAKE_OVER) for at in fates for _ in range(3)]
            events += [(min(at, 0.8 * seconds), Kind.ELECTION) for at in more]
        for _ in range(orders.choice((0, 2, 4, 8))):
            at = orders.choice(offers).at + orders.uniform(0, orders.choice((0.5, 5, 20)))
            events.append((min(at, 0.8 * seconds), Kind.CANCEL))
    small = random.random() < 0.3
    return Scenario(
        seed=seed,
        seconds=seconds,
        members=random.choice((2, 2, 3)),
        shards=random.choice((1, 2, 2, 3)),
        services=services + added,
        faults=faults,
        events=tuple(sorted(events)),
        offers=tuple(offers),
        batch=random.choice((3, 10)) if small else 4000,
        pulls=random.choice((1, 3, 10)) if small else PULLS,
        buffer=random.choice((1, 1000)) if small else 1 << 20,
        fetch=random.choice((1, 4)) if small else 500,
        runs=random.choice((4, 120)),
        look=random.choice(offers).at + random.uniform(0.1, 20),
        at_once=orders.choice((1, 3, 500)),
        looked_at=orders.choice((1, 20_000)),
    )


def _offers(random: Random, services: tuple[str, ...], episodes: list[float]) -> Iterator[Offer]:
    number = 0
    for service in services:
        for episode in episodes:
            at = episode + random.uniform(0, 10)
            pattern = random.choice(("burst", "flood", "trickle", "bursts"))
            for _ in range({"burst": 1, "bursts": 4}.get(pattern, random.choice((5, 15)))):
                count = {"burst": random.choice((3, 12, 40)), "bursts": random.choice((2, 8))}.get(pattern, 1)
                records = []
                for _ in range(count):
                    number += 1
                    records.append(_request(random, service, number, at))
                place = Partition(NAMES.requests(service), random.randrange(PARTITIONS))
                yield Offer(at, place, tuple(records), random.random() < 0.1)
                at += {"flood": 0.1, "trickle": random.expovariate(0.3), "bursts": 3.0}.get(pattern, 0.0)


def _scheduled(random: Random, offers: list[Offer]) -> list[Offer]:
    """Let some of the requests go not before a time, in half of the runs."""
    if random.random() < 0.5:
        return offers
    share, longest = random.choice((0.05, 0.3)), random.choice((2_000, 60_000))

    def later(request: Outgoing) -> Outgoing:
        if request.timestamp is None or random.random() >= share:
            return request
        start = request.timestamp + random.randrange(-500, longest)
        return request._replace(headers=[*request.headers, ("gate-start", b"%d" % start)])

    return [replace(offer, records=tuple(map(later, offer.records))) for offer in offers]


def _named(random: Random, offers: list[Offer]) -> list[Offer]:
    """Give requests ids of their own, some of them more than once, in half of the runs."""
    if random.random() < 0.5:
        return offers
    many = random.choice((5, 60, 1_000))

    def named(request: Outgoing, service: str) -> Outgoing:
        if random.random() < 0.1:
            return request
        header = "key-of-mine" if service == "reject" else "gate-id"
        return request._replace(headers=[*request.headers, (header, b"%d" % random.randrange(many))])

    return [
        replace(offer, records=tuple(named(r, offer.partition.topic.rpartition(".")[2]) for r in offer.records))
        for offer in offers
    ]


def _request(random: Random, service: str, number: int, at: float) -> Outgoing:
    key = random.choice((None, b"k1", b"k2"))
    value = None if random.random() < 0.05 else f"{service} {number}".encode()
    return Outgoing(key, value, START_MS + int(at * 1000), tuple(_headers(random, service, at)))


def _headers(random: Random, service: str, at: float) -> Iterator[tuple[str, bytes | None]]:
    dice = random.random()
    if service == "lanes":
        yield "gate-priority", random.choice((b"interactive", b"default", b"batch", b"unknown"))
    if service.endswith("tenants"):
        yield "gate-tenant", random.choice((b"acme", b"acme", b"beta", b"gamma"))
    if service in {"costly", "hold"}:
        yield "gate-cost", random.choice((b"1", b"2", b"4", b"1000"))
    if dice < 0.03:
        yield random.choice(MALFORMED)
    elif dice < 0.06:
        yield "gate-deadline", b"%d" % (START_MS + int(at * 1000) + random.choice((500, 5_000, 30_000)))
    elif dice < 0.15:
        yield "traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        yield "retry-after", b"7"  # of the producer's own
        yield "gate", b"forged"


def commanded(seed: int) -> Scenario:
    """Draw a run of one service in which much waits, and many commands come amid faults that no broker dies of.

    In every third run there are none, so that nothing may come later than its limits say.
    """
    random = Random(f"commanded {seed}")
    service = random.choice(("plain", "lanes", "lanes", "tenants", "slow", "reject"))
    numbers, offers = iter(range(10_000)), []
    for burst in range(48):
        at = 20.0 + 1.25 * burst
        requests = [_request(random, service, next(numbers), at) for _ in range(random.choice((1, 4)))]
        place = Partition(NAMES.requests(service), random.randrange(PARTITIONS))
        offers.append(Offer(at, place, tuple(requests), transactional=False))
    offers.append(Offer(550.0, place, (Outgoing(None, b"last", START_MS + 550_000, ()),), transactional=False))
    calm = seed % 3 == 2
    kinds = random.choices((Kind.KILL, Kind.EXPEL, Kind.REBALANCE, Kind.PAUSE), k=random.choice((1, 2, 3)))
    events = [] if calm else [(random.uniform(25, 110), kind) for kind in kinds]
    commands = [random.uniform(25, 110) for _ in range(8)]
    events += [(at, Kind.CANCEL) for at in commands]
    orders = [Order.CANCEL, Order.EXPEDITE, Order.REDRIVE] + [Order.MOVE] * (service == "lanes")
    random.shuffle(orders)
    return Scenario(
        seed=seed, seconds=600.0, members=2, shards=1, services=(service,),
        faults=Faults() if calm else Faults(random.choice((0.0, 0.05)), 4),
        events=tuple(sorted(events)), offers=tuple(offers), batch=4000,
        pulls=PULLS if calm else random.choice((3, PULLS)),
        buffer=1 << 20, fetch=500, runs=120, look=random.uniform(30, 100), at_once=random.choice((1, 1, 3, 500)),
        looked_at=random.choice((1, 20_000)), orders=tuple(orders), amid=0 if calm else 4,
    )  # fmt: skip
