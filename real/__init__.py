"""The real engine: the same policies on a transformers model, measured."""
