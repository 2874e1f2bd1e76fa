"""The command ``doctor``: collects facts about a server and judges them.

It never changes anything there.
"""
