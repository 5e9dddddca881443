"""The simulator: engine, cost model, metrics, pictures and command line."""

__version__ = "0.1.0"
