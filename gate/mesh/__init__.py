"""Distributed limiter: one exact limit that many processes share, decided locally; pure, no clock, no I/O."""
