"""BullMQ's calls, keys and records as pure values; what changes with a BullMQ version.

Never sends anything.
"""
