"""Description of a cluster: its brokers and its controller, without the topics that it has."""

from typing import Any, NamedTuple

from gate.kafka.aio.client import Client
from gate.kafka.aio.compat.shared import MetadataRequest


class Described(NamedTuple):
    """The brokers that there are now, and which of them is the controller, or passes on what is for it."""

    brokers: tuple[int, ...]
    controller: int


async def describe(client: Client) -> Described:
    """Ask a broker. aiokafka's own call asks for all topics as well, which may be many. Raises KafkaError."""
    answer: Any = await client.send(client.get_random_node(), MetadataRequest([]))
    return Described(tuple(number for number, *_ in answer.brokers), answer.controller_id)
