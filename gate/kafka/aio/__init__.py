"""aiokafka, and what the gate needs beyond its public calls."""
