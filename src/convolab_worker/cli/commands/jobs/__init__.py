"""The commands ``jobs`` and ``failed``: list, show, retry, remove and promote jobs."""
