"""The shell around the engine: everything that talks to Kafka."""
