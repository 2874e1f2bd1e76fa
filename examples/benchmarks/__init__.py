"""Benchmarks: run throughput.py, lone_job.py and idle.py as files."""
