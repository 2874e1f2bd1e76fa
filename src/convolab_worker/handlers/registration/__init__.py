"""Registers functions as handlers, and checks what was declared of them. Never calls one."""
