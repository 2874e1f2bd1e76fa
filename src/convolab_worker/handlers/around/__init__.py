"""What is registered to run around handlers: middleware, lifespans, hooks and redaction.

It never chooses which handler runs.
"""
