"""What is typed after a command: its parser, its flags, and the shells' completion of them.

It never acts on them.
"""
