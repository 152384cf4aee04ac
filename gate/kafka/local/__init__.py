"""A real Apache Kafka on this machine, of one broker or of several, without Docker: for the demo, tests and trials."""

from gate.kafka.local.broker import LocalBroker
from gate.kafka.local.cluster import LocalCluster

__all__ = ["LocalBroker", "LocalCluster"]
