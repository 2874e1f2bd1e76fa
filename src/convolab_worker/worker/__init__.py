"""Runs jobs: a worker's life, from its start to the last job.

It never knows a Redis command by name.
"""
