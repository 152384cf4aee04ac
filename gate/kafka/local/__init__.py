"""Apache Kafka on this machine, of one node or several, without Docker."""

from gate.kafka.local.broker import LocalBroker
from gate.kafka.local.cluster import LocalCluster

__all__ = ["LocalBroker", "LocalCluster"]
