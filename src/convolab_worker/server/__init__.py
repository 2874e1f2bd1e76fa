"""The wake server: HTTP in front of a worker. Never reaches behind the worker's public methods."""
