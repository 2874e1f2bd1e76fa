"""What is known of commands: which wait for an answer, what a refusal means, and their count.

It never knows where a server is.
"""
