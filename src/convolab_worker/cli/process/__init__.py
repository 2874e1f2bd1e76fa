"""The process of a command: its start, its signals, the application in it, and its end.

Never reads a flag.
"""
