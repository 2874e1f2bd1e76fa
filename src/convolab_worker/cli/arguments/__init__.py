"""What is typed behind a command: its parser, its flags, and the shells' completion of them.

Never acts on them.
"""
