"""Submitting jobs through the gate, and following each one: when it is admitted, why it waits, what came of it."""
