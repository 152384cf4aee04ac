"""Searching for a request where no broker answers."""

import pytest

from gate.errors import GateError
from gate.kafka.local.config import free_port
from gate.kafka.request_search import RequestSearch
from gate.protocol.topics import Names


async def test_a_broker_that_is_away_is_told_as_such():
    with pytest.raises(GateError, match="no broker answers"):
        async with RequestSearch.connected(Names(), "gate", bootstrap_servers=f"127.0.0.1:{free_port()}"):
            pass
