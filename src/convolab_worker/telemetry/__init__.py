"""Logs, counts and traces what a worker does, in memory. It never sends a Redis command."""
