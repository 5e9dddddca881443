"""Prices from measured kernels."""
