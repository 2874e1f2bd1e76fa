"""Makes jobs of keywords, and adds them: at once, or when a transaction commits.

Never follows one.
"""
