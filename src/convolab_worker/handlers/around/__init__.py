"""What is registered to run around handlers: middleware, lifespans, hooks and redaction.

Never chooses which handler runs.
"""
