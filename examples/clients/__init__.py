"""Programs that add jobs: README.md."""
