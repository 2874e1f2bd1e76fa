"""A job that is killed in the middle, for each library: ``python -m …recovering.NAME work|add``."""
