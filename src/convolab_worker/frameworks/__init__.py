"""Adapts the library to the frameworks that applications are written in, each imported when used.

It calls what stands below it, and nothing imports it.
"""
