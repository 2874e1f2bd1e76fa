"""Logs, counts and traces what a worker does, in memory. Never sends a Redis command."""
