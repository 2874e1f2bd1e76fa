"""The command ``cost``: a model of what a workload costs, its flags and its report.

It never connects to Redis or a cloud: it computes with measured counts and dated list prices.
"""
