"""Adapts the library to what applications run in, each module imported only when it is used.

It calls what stands below it, and nothing imports it: Django, ASGI and AWS Lambda, for example.
"""
