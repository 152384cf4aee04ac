"""The first of the pressure list are those that sorting all of it gives, whatever comes and goes."""

from random import Random

import pytest

from gate.admission.model import Reason
from gate.console.order import Order
from gate.console.records import decode
from gate.observe.usage import encode, to_json
from tests.console.conftest import AT_MS, usage_of

SERVICES = 400


def record(service: str, random: Random):
    told = to_json(usage_of(service)) | {"backlog": random.choice([0, 0, 3, 900]), "at_ms": AT_MS + random.randrange(9)}
    told["eta_seconds"] = random.choice([None, 0.5, 60.0, 3600.0])
    told["binding"] = {"reason": Reason.RATE, "limit": f"{service}.rate"} if told["backlog"] else None
    told["undecided_age_seconds"] = random.choice([None, None, None, 30.0])
    return decode(encode(told))


def sorted_by_hand(kept: dict) -> list[str]:
    order = Order()
    for service, one in kept.items():
        order.put(service, one, is_calm=one.is_calm)
    return list(order.all())


@pytest.mark.parametrize("seed", range(5))
def test_the_first_are_those_of_all(seed):
    random, order, kept = Random(seed), Order(), {}
    for _ in range(60):
        for _ in range(random.choice([1, 30, 600])):
            service = f"service-{random.randrange(SERVICES):03}"
            if service in kept and random.random() < 0.1:
                del kept[service]
                order.drop(service)
            else:
                one = kept[service] = record(service, random)
                order.put(service, one, is_calm=one.is_calm)
        every = sorted_by_hand(kept)
        for count in random.sample([1, 5, 20, 45, 400], 2):
            assert list(order.first(count)) == every[:count]


def test_only_what_may_be_among_the_first_is_looked_at(monkeypatch):
    random, order = Random(1), Order()
    for number in range(SERVICES):
        service = f"service-{number:03}"
        one = decode(encode({**to_json(usage_of(service)), "backlog": 5, "eta_seconds": 60.0 + number}))
        order.put(service, one, is_calm=False)
    first = order.first(5)
    looked = []
    monkeypatch.setattr(order, "_keep_apart", lambda urgencies, count: looked.append(count))
    for number in random.sample(range(SERVICES - 50), 100):  # none of these is among the first
        service = f"service-{number:03}"
        one = decode(encode({**to_json(usage_of(service)), "backlog": 6, "eta_seconds": 60.0 + number}))
        order.put(service, one, is_calm=False)
        assert order.first(5) == first
    assert looked == []
