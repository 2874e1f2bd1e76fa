"""The workers that are compared, each a program of its own, and the producer of their jobs."""
