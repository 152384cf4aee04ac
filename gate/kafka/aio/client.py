"""Clients of brokers, on the path over aiokafka that runs: see `compat`."""

from typing import TYPE_CHECKING

from gate.kafka.aio.compat import CHOICE

if TYPE_CHECKING or CHOICE.fast:
    from gate.kafka.aio.fast_client import Client, adopt
    from gate.kafka.aio.heartbeats import adopt_member
    from gate.kafka.aio.sender import FastSending as ProducerSending
    from gate.kafka.aio.skip_unreadable import tolerate
else:
    from gate.kafka.aio.public_client import Client, adopt, adopt_member, tolerate
    from gate.kafka.aio.public_sending import PublicSending as ProducerSending

__all__ = ["Client", "ProducerSending", "adopt", "adopt_member", "tolerate"]
