"""The process of a command: its start, its signals, the application in it, and its end.

It never reads a flag.
"""
