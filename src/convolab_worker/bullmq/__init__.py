"""What is known of BullMQ: its transitions, its keys and what its scripts answer.

Never decides when a job runs.
"""
