"""A real Apache Kafka broker on this machine, without Docker: for the demo, the tests and for trying things out."""

from gate.kafka.local.broker import LocalBroker

__all__ = ["LocalBroker"]
