"""What a worker sends of BullMQ: it fetches and ends jobs, records steps, adds and reads children.

A producer never imports it.
"""
