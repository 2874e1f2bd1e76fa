"""The command ``run``: a worker that goes on, what hosts it, and its restarts in development."""
