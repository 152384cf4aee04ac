"""One running gate: group, ownership, what shards read, topics, access, diagnostics."""
