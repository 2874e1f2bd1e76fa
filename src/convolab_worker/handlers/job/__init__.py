"""What a running handler sees and uses: its job, the job's steps, children, log and programs.

It never sends a command: the worker's reporter does.
"""
