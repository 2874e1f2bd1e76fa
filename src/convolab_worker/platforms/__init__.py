"""Adapts the worker to platforms that start and stop it: each module one, imported only when used.

It calls the public methods of worker and client, and never needs a platform's own library.
"""
