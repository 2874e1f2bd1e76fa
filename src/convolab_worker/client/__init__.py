"""What producers and operators use: adds jobs, follows them, and moves or removes them.

It never runs a job.
"""
