"""Forecasts: when each request that waits will be admitted if nothing else comes, found in the cheapest exact way."""
