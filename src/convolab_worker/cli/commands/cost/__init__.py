"""The command ``cost``: the cost model, its flags, and the report as tables, JSON or a picture.

It never connects to Redis or a cloud: it computes with measured counts and dated list prices.
"""
