"""Metrics, alerts and usage: told by the shell, asking nothing."""
