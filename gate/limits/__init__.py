"""Token bucket and sliding window as integer mathematics; no clock, no I/O."""
