"""Processes that handlers run in. Nothing here is imported by a worker that has no such handler."""
