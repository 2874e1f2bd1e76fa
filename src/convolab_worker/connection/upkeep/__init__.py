"""Keeps connections as they have to be: back after a loss, logged in, named, and told of changes.

It never opens a socket itself.
"""
