"""The console: its page, what the page asks of Redis, and what it does there."""
