"""Adapts the library to what applications run in, such as Django, ASGI and AWS Lambda.

Nothing else in the library imports it, and each of its modules is imported only when it is used.
"""
