"""The command lines: Hydra composes, overrides are checked, sweeps are resumed and gathered."""
