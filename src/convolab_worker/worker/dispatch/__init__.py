"""Decides which queue to fetch from, how many jobs and when. Never runs a job."""
