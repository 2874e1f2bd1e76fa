"""What passes between producers and handlers, as documents that both sides can read. Pure.

It describes registered handlers as JSON Schema and as TypeScript, and compares such documents.
"""
