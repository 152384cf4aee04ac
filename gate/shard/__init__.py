"""One shard and the task that owns it; it knows Kafka by its ports alone."""
