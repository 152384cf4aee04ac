"""Searching for a request where no broker answers."""

import pytest

from gate.errors import GateError, UnknownRequestError
from gate.kafka.local.config import free_port
from gate.kafka.request_search import RequestSearch, check_id
from gate.protocol.topics import Names


async def test_a_broker_that_is_away_is_told_as_such():
    with pytest.raises(GateError, match="no broker answers"):
        async with RequestSearch.connected(Names(), "gate", bootstrap_servers=f"127.0.0.1:{free_port()}"):
            pass


NAMES = Names()
THERE = {NAMES.requests("pay"), NAMES.admitted("pay")}


@pytest.mark.parametrize("wrong", ["", "gate.requests.pay-0@-1", "gate.requests.pay-0@one", "gate.admitted.pay-0@1"])
def test_what_can_be_no_id_is_told_as_such_and_not_searched(wrong):
    with pytest.raises(UnknownRequestError, match=f"'{wrong}' is no id of a request"):
        check_id(wrong, THERE, NAMES.service_of)


@pytest.mark.parametrize("known", ["gate.requests.pay-0@1", "order-1", "a-b@c", "@", "-@", "\ud800"])
def test_what_may_be_a_stamps_or_a_producers_id_is_searched(known):
    check_id(known, THERE, NAMES.service_of)
