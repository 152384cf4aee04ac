"""Start-time fair queueing: whose turn it is among the lanes of a service, and in each lane among its tenants.

Goyal, Vin, Chen: "Start-time Fair Queueing" (SIGCOMM 1996). Each flow has a start tag; the lowest goes first and its
tag then grows by cost divided by weight. A flow that comes back starts at the tag that is being served, so that it gets
its share at once and no credit for the time away.
"""

import math
from collections.abc import Collection, Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic, NamedTuple, TypeVar, cast

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


class FairQueue(Generic[F]):
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
        """Tell how many equal turns the first may take for certain before it is another's; None: as many as it likes.

        It may where it is alone, or where its turns cost nothing.
        """
        heap = self._heap
        if len(heap) == 1 or not stride:
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


def strides(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Return how much a unit costs in each lane: whole numbers in inverse proportion to the weights."""
    scale = math.lcm(*(weight.numerator for weight in weights))
    exact = [scale // weight.numerator * weight.denominator for weight in weights]
    common = math.gcd(*exact)
    if max(exact) // common <= _STRIDE_MAX:
        return tuple(stride // common for stride in exact)
    heaviest = max(weights)
    return tuple(min(max(1, round(heaviest * 1024 / weight)), _STRIDE_MAX) for weight in weights)
