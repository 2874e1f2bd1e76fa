"""Owns what the library knows of BullMQ: its transitions, its keys and what its scripts answer.

It never decides when a job runs.
"""
