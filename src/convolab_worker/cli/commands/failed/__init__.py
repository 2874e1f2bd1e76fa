"""The command ``failed``: lists, shows, retries and removes jobs that have failed for good."""
