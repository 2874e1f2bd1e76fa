"""Runs jobs: a worker's life, from its start to the last job.

Never knows a Redis command by name.
"""
