"""Requests made shorter, for smaller models and machines, or drawn anew in blocks: other traces like a recorded one."""

from dataclasses import replace

import numpy as np

from workloads.demand import counted
from workloads.requests import IntArray, Requests
from workloads.streams import stream


def scaled(requests: Requests, factor: float) -> Requests:
    """Return requests whose every length is multiplied by a factor and rounded, at least 1 token.

    Hashes stand for as many tokens each as before, whatever the factor: they are left out.
    """
    if factor == 1:
        return requests
    notes = [f"all lengths multiplied by {factor:g}, max_new_tokens too"]
    if requests.prefix_hashes is not None:
        notes.append("hash_ids of shorter prompts are left out: no prefix is shared")
    output = _multiplied(requests.output_tokens, factor)
    prompt = _multiplied(requests.prompt_tokens, factor)
    prefix = np.rint(requests.prefix_tokens * factor).astype(np.int64)
    return replace(
        requests,
        prompt_tokens=prompt,
        output_tokens=output,
        max_new_tokens=np.maximum(output, _multiplied(requests.max_new_tokens, factor)),
        prefix_tokens=np.minimum(prefix, prompt),
        prefix_hashes=None,
        notes=(*requests.notes, *notes),
        declared=f"{requests.declared}, multiplied by {factor:g}",
    )


def capped(requests: Requests, tokens: int) -> Requests:
    """Return requests of at most so many tokens, prompt and declared answer together.

    Where the prompt and the true answer fit, only `max_new_tokens` is lowered. Where they do not, both are shortened in
    proportion.

    Args:
        requests: The requests.
        tokens: The most that a request may have; at least 2.
    """
    total = requests.prompt_tokens + requests.output_tokens
    long = total > tokens
    cut = requests.prompt_tokens + requests.max_new_tokens > tokens
    if not cut.any():
        return requests
    shorter = np.clip(requests.prompt_tokens * tokens // total, 1, tokens - 1)
    prompt = np.where(long, shorter, requests.prompt_tokens)
    output = np.where(long, np.minimum(requests.output_tokens, tokens - prompt), requests.output_tokens)
    notes = [f"{counted(int(cut.sum()), 'request')} declared fewer max_new_tokens, to need at most {tokens:,} tokens"]
    if long.any():
        notes.append(f"{counted(int(long.sum()), 'request')} shortened to {tokens:,} tokens")
    return replace(
        requests,
        prompt_tokens=prompt,
        output_tokens=output,
        max_new_tokens=np.minimum(requests.max_new_tokens, tokens - prompt),
        prefix_tokens=np.minimum(requests.prefix_tokens, prompt),
        notes=(*requests.notes, *notes),
        declared=f"{requests.declared}, at most {tokens:,} with the prompt",
    )


def _multiplied(lengths: IntArray, factor: float) -> IntArray:
    whole: IntArray = np.maximum(np.rint(lengths * factor), 1).astype(np.int64)
    return whole


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
