"""What an application writes: handlers, their middleware, lifespans and retry policies.

Never touches Redis.
"""
