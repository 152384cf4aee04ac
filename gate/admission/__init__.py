"""One service's engine: queues, limits, forecast and decisions, without I/O."""
