"""The client for threads, whose calls block. It never runs in an event loop of its caller."""
