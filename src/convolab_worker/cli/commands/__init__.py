"""One module for each command. Never imported before its command runs."""
