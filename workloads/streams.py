"""Separate random streams: one per name, so that drawing from one never changes another."""

import numpy as np

from policies.checks import whole_number

MAX_SEED = 2**63 - 1


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream of this name under this seed, the same in every process.

    Raises:
        InputError: if the seed is not a whole number from 0 to 2**63 - 1.
    """
    whole_number("seed", seed, low=0, high=MAX_SEED)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(name.encode())))
