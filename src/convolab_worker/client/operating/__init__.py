"""What operators do: finds and counts jobs, acts on them, and keeps queues and schedules.

It never waits for a job.
"""
