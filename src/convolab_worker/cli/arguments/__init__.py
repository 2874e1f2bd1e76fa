"""What is typed after a command: its parser, its flags, and the shells' completion of them.

Never acts on them.
"""
