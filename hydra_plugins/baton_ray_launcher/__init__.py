"""A Hydra launcher that runs the points of a sweep on a Ray cluster."""
