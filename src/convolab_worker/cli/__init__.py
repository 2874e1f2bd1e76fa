"""The command line: flags in, results and exit codes out.

Never holds logic that a library user would need.
"""
