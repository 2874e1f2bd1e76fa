"""One module or folder for each command. Each imports what is slow to import when it runs."""
