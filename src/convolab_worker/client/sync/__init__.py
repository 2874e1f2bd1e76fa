"""The client for threads, whose calls block. Never runs in an event loop of its caller."""
