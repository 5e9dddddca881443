"""Other traces like a recorded one: contiguous blocks of it, drawn with replacement and joined."""

from dataclasses import replace

import numpy as np

from workloads.requests import Requests
from workloads.streams import stream


def block_length(requests: int) -> int:
    """Return how many requests a block has: the square root of all, rounded up."""
    return int(np.ceil(np.sqrt(requests)))


def resampled(requests: Requests, seed: int, arrivals_too: bool) -> Requests:
    """Return as many requests, in blocks drawn from these: a circular block bootstrap (Politis and Romano, 1992).

    A block starts at any request with equal probability and goes on at the first after the last, so that every request
    is drawn as often as any other. Inside a block all order is kept, so bursts that are shorter than it are, too.

    Args:
        requests: The recorded requests.
        seed: Of the stream that draws the blocks.
        arrivals_too: Whether the gaps between arrivals were recorded, and are drawn with the requests they precede;
            else arrivals stay as they are.
    """
    count = len(requests)
    length = block_length(count)
    starts = stream(seed, "blocks").integers(count, size=-(-count // length))
    rows = ((starts[:, None] + np.arange(length)) % count).ravel()[:count]
    arrival_s = requests.arrival_s
    if arrivals_too:
        # The first request has no gap before it: it gets the mean one.
        mean = (arrival_s[-1] - arrival_s[0]) / max(count - 1, 1)
        gaps = np.concatenate([[mean], np.diff(arrival_s)])[rows]
        arrival_s = np.cumsum(gaps) - gaps[0]
    columns = ("prompt_tokens", "output_tokens", "max_new_tokens", "priority", "prefix_id", "prefix_tokens")
    hashes = requests.prefix_hashes
    return replace(
        requests,
        arrival_s=arrival_s,
        prefix_hashes=None if hashes is None else hashes[rows],
        **{name: getattr(requests, name)[rows] for name in columns},
    )
