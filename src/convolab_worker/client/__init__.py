"""What producers and operators use: adds jobs, follows them, and moves or removes them.

Never runs one.
"""
