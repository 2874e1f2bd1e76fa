"""Keeps connections as they have to be: back after a loss, logged in, named, and told of changes.

Never opens a socket itself.
"""
