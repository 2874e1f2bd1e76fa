"""What operators do: finds and counts jobs, acts on them, and keeps queues and schedules.

Never waits for a job.
"""
