"""What is known of Redis: connections, addresses, error replies and the count of commands.

Never knows a job.
"""
