"""Prompts for workloads that have lengths only."""

import numpy as np

from workloads.requests import Requests
from workloads.streams import stream


def random_prompts(requests: Requests, vocabulary: int, seed: int) -> list[list[int]]:
    """Return random tokens for every request, of its prompt's length; the same seed gives the same.

    Args:
        requests: The workload.
        vocabulary: Tokens to draw from: 0 to vocabulary - 1.
        seed: Whole number, 0 or more.
    """
    ends = np.cumsum(requests.prompt_tokens)
    tokens = stream(seed, "tokens").integers(0, vocabulary, ends[-1] if len(ends) else 0)
    return [part.tolist() for part in np.split(tokens, ends[:-1])]
