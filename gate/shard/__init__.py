"""One shard and the task that owns it: reading, deciding, routing, committing. It knows Kafka by its ports alone."""
