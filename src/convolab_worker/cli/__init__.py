"""The command line: flags in, results and exit codes out.

It never holds logic that a user of the library would need.
"""
