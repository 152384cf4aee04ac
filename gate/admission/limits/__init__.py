"""Limits that all requests of a service share: its own, and the budgets of groups."""
