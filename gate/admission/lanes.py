"""Who goes next: start-time fair queueing over the lanes of a service, and in each lane over its tenants.

Goyal, Vin, Chen: "Start-time Fair Queueing" (SIGCOMM 1996). Each flow has a start tag; the lowest goes first and its
tag then grows by cost divided by weight. A flow that comes back starts at the tag that is being served, so that it gets
its share at once and no credit for the time away.
"""

import math
from array import array
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from gate.admission.arrivals import Arrival
    from gate.admission.tenant import Tenant

_STRIDE_MAX: Final = 2**20  # of the lightest lane: beyond it, weights are rounded to a millionth of the heaviest one's
COST_CAP: Final = 2**36  # of one request in a tag


class Flow:
    """Something that takes turns."""

    __slots__ = ("entry", "order", "start")

    def __init__(self, order: int) -> None:
        self.order = order  # the lower goes first among equals
        self.start = 0
        self.entry: object = None  # in the heap of those that take part; None: it does not


F = TypeVar("F", bound=Flow)
_Entry = tuple[int, int, int, F]  # start, order, number


class Aside(NamedTuple, Generic[F]):
    """Flows that do not take part for a moment, with all that tells their order."""

    heap: list[_Entry[F]]
    size: int
    virtual: int
    pushed: int


class Fair(Generic[F]):
    """Flows that have work, by start tag."""

    __slots__ = ("_heap", "_pushed", "_size", "virtual")

    def __init__(self) -> None:
        self.virtual = 0
        self._heap: list[_Entry[F]] = []  # an entry that its flow does not know any more counts nothing
        self._size = 0
        self._pushed = 0

    def __len__(self) -> int:
        return self._size

    def join(self, flow: F) -> None:
        """Let a flow that has work take part, if it does not already."""
        if flow.entry is None:
            flow.start = max(flow.start, self.virtual)
            self._size += 1
            heappush(self._heap, self._enter(flow))

    def leave(self, flow: F) -> None:
        """Let a flow take part no longer; its tag stays."""
        if flow.entry is not None:
            flow.entry = None
            self._size -= 1

    def first(self) -> F | None:
        """Return whose turn it is; None: nobody takes part."""
        heap = self._heap
        while heap:
            entry = heap[0]
            if entry[3].entry is entry:
                return entry[3]
            heappop(heap)
        return None

    def turns(self, stride: int) -> int | None:
        """Tell how many equal turns the first may take for certain before it is another's; None: it is alone."""
        heap = self._heap
        if len(heap) == 1:
            return None
        second = heap[1] if len(heap) == 2 or heap[1] < heap[2] else heap[2]
        start, order, _, _ = heap[0]
        whole, rest = divmod(second[0] - start, stride)
        return max(1, whole + (1 if rest or order < second[1] else 0))

    def charge(self, stride: int, turns: int) -> None:
        """Let the first pay for the turns that it took."""
        flow = self._heap[0][3]
        self.virtual = flow.start + stride * (turns - 1)
        flow.start += stride * turns
        heapreplace(self._heap, self._enter(flow))

    def flows(self) -> list[F]:
        """Return who takes part, in no particular order."""
        return [entry[3] for entry in self._heap if entry[3].entry is entry]

    def only(self, flows: Collection[F]) -> Aside[F]:
        """Let only these of those that take part go on, until what is returned is put back."""
        aside = Aside(self._heap, self._size - len(flows), self.virtual, self._pushed)
        self._heap = [cast("_Entry[F]", flow.entry) for flow in flows]
        self._size = len(flows)
        heapify(self._heap)
        return aside

    def put_back(self, aside: Aside[F]) -> None:
        """Let all take part again that were set aside; what the others have had since does not move them."""
        known = self._heap
        self._heap, self.virtual = aside.heap, aside.virtual
        for entry in known:
            if entry[3].entry is entry and entry[2] > aside.pushed:
                heappush(self._heap, entry)
        self._size += aside.size

    def clear(self) -> None:
        """Take all out."""
        for flow in self.flows():
            flow.entry = None
        self._heap.clear()
        self._size = 0

    def _enter(self, flow: F) -> _Entry[F]:
        self._pushed += 1  # no two entries are equal, so flows are never compared
        entry = (flow.start, flow.order, self._pushed, flow)
        flow.entry = entry
        return entry


class Queue(Flow):
    """What waits of one tenant in one lane: parked requests, and behind them those of the batch at hand."""

    __slots__ = ("epoch", "fresh", "head", "lane", "refs", "requests", "tenant", "units", "until")

    def __init__(self, lane: "Lane", tenant: "Tenant") -> None:
        super().__init__(0)
        self.lane = lane
        self.tenant = tenant
        self.epoch = lane.epoch
        self.requests = 0  # parked
        self.units = 0
        self.refs = array("Q")  # to entries of segments
        self.head = 0  # refs before it are done
        self.until = 0  # blocked by the tenant's own limit; 0: not blocked
        self.fresh: deque[Arrival] | None = None  # an empty deque would be half of a queue's memory


class Lane(Flow):
    """A priority: a share of the service's limits."""

    __slots__ = (
        "busy",
        "epoch",
        "fair",
        "name",
        "orders",
        "ready_units",
        "requests",
        "stride",
        "units",
        "waiting",
        "weight",
    )

    def __init__(self, name: str, weight: Fraction, stride: int, order: int) -> None:
        super().__init__(order)
        self.name = name
        self.weight = weight
        self.stride = stride  # of a unit
        self.fair: Fair[Queue] = Fair()
        self.epoch = 0  # tags of an older epoch count as 0
        self.orders = 0
        self.busy = False  # queues have taken part since it was last at rest
        self.requests = 0  # parked
        self.units = 0
        self.waiting = 0  # queues with something parked
        self.ready_units = 0  # of them, those whose tenant's limit does not block them

    def _new_order(self) -> int:
        self.orders += 1
        return self.orders

    def remembers(self, queue: Queue) -> bool:
        """Tell whether a queue's tag still says that it had more than others."""
        return queue.epoch == self.epoch and queue.start > self.fair.virtual

    def join(self, queue: Queue) -> None:
        """Let a queue that has work take part. One whose tag tells nothing any more is as good as new."""
        if queue.entry is None:
            if not queue.order or not self.remembers(queue):
                queue.epoch, queue.start, queue.order = self.epoch, 0, self._new_order()
            self.rejoin(queue)

    def rejoin(self, queue: Queue) -> None:
        """Let a queue take part again as what it was."""
        self.busy = True
        self.fair.join(queue)

    def rest(self) -> None:
        """Forget who had how much: nobody waits here. Keeps the tags small."""
        if self.busy:
            self.busy = False
            self.fair.clear()
            self.fair.virtual = 0
            self.epoch += 1


def head(lanes: Fair[Lane]) -> Queue | None:
    """Return the queue whose turn it is; None: none that takes part has work. Those that have none leave."""
    while (lane := lanes.first()) is not None:
        while (queue := lane.fair.first()) is not None:
            if queue.requests or queue.fresh:
                return queue
            lane.fair.leave(queue)
        lanes.leave(lane)
    return None


def lanes_of(weights: Mapping[str, Fraction]) -> dict[str, Lane]:
    """Make the lanes of a policy."""
    rows = zip(weights.items(), strides(list(weights.values())), strict=True)
    return {name: Lane(name, weight, stride, order) for order, ((name, weight), stride) in enumerate(rows)}


def strides(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Return how much a unit costs in each lane: whole numbers in inverse proportion to the weights."""
    scale = math.lcm(*(weight.numerator for weight in weights))
    exact = [scale // weight.numerator * weight.denominator for weight in weights]
    common = math.gcd(*exact)
    if max(exact) // common <= _STRIDE_MAX:
        return tuple(stride // common for stride in exact)
    heaviest = max(weights)
    return tuple(min(max(1, round(heaviest * 1024 / weight)), _STRIDE_MAX) for weight in weights)
