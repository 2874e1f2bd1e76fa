"""Registers functions as handlers, and checks their declarations. It never calls a handler."""
