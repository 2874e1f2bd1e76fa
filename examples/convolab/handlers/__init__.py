"""The example's handlers: one module, and one registry, for each kind of job."""
