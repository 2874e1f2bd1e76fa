"""Makes jobs of keywords, and adds them: at once, or when a transaction commits.

It never follows a job.
"""
