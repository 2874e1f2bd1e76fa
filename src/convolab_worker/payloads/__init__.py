"""JSON in and out: reads and checks the data of jobs, and writes results.

It never does I/O.
"""
