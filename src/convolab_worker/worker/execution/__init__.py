"""Runs one job from its fetch to its written outcome. Never chooses the next queue."""
