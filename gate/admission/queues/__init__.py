"""Queues of one service: fair turns over lanes and tenants, and where what is parked lies."""
