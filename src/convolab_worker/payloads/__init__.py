"""Turns JSON into checked Python values and results into JSON. Never does I/O."""
