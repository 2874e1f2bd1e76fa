"""BullMQ's keys, script calls, records and replies as pure values: what changes with its version.

It never sends anything.
"""
