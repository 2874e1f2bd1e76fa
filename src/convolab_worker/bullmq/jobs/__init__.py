"""Jobs as values: as they are declared, the children they ask for, and what comes of running them.

It never sends anything.
"""
