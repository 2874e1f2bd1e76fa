"""Wakes the worker service over HTTP, once for many jobs. It never asks Redis."""
