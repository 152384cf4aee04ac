"""An admission gate for message queues on Apache Kafka."""
