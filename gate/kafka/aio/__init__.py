"""aiokafka, with what the gate needs beyond its public calls: reading, writing, connections, requests of our own."""
