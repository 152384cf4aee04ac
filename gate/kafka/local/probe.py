"""Ask a broker who it is: what counts as serving."""

import socket
import struct
from io import BytesIO
from typing import NamedTuple

from gate.kafka.aio.compat.shared import MetadataResponse_v2

# Metadata version 2 about no topic: length, API key, version, correlation id, no client id, empty array
_REQUEST = struct.pack(">ihhihi", 14, 3, 2, 0, -1, 0)
_LARGEST = 1 << 20  # bytes; an answer about one broker has some 60


class Answer(NamedTuple):
    """What a broker says of its cluster."""

    cluster: str
    nodes: frozenset[int]  # that it counts as alive


def cluster_id(host: str, port: int, timeout: float = 2.0) -> str | None:
    """Return the cluster id if a Kafka broker listens there and counts itself as alive, else None. See `ask`."""
    answer = ask(host, port, timeout)
    return answer.cluster if answer is not None and answer.nodes else None


def ask(host: str, port: int, timeout: float = 2.0) -> Answer | None:
    """Return what the Kafka broker says that listens there, None if none does.

    `timeout` in seconds holds for each step. Nothing is raised: at start-up every kind of failure is normal.
    """
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(_REQUEST)
            with connection.makefile("rb") as stream:
                (length,) = struct.unpack(">i", stream.read(4))
                if not 4 <= length <= _LARGEST:
                    return None
                answer = stream.read(length)
        metadata = MetadataResponse_v2.decode(BytesIO(answer[4:]))
    except (OSError, struct.error, ValueError):
        return None
    return Answer(metadata.cluster_id, frozenset(node for node, *_ in metadata.brokers))
