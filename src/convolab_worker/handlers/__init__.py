"""What an application writes: handlers, their middleware, lifespans and retry policies.

It never touches Redis.
"""
