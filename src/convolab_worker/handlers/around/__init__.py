"""What is registered beside handlers: middleware, lifespans, functions that are told of something.

Never chooses which handler runs.
"""
