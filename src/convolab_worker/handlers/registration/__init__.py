"""Registers functions as handlers, and checks what was declared of them. It never calls a handler."""
