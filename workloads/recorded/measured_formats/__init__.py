"""Formats in which load generators save what a server did with each request: one module each."""
