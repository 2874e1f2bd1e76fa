"""What is known of Redis: connections, addresses, error replies and the count of commands.

It never knows a job.
"""
