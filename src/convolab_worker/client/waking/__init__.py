"""Wakes the worker service over HTTP, once for many jobs. Never asks Redis."""
