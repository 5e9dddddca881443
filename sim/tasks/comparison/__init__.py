"""task=run: policies on the same requests."""
