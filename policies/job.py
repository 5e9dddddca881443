"""What a policy may know of a request."""

from typing import NamedTuple

HASHED = 512
"""Tokens of a prompt that one hash of `Job.prefix_hashes` stands for, unless the job says otherwise."""


class Job(NamedTuple):
    """One request as the scheduler sees it. The true output length is not here, and never will be.

    Attributes:
        id: Index of the request in its workload; breaks ties between equal arrivals.
        arrival_s: When it arrived, in seconds from the start of the run.
        prompt_tokens: Length of its prompt, at least 1.
        max_new_tokens: The most tokens it may generate, as declared by the client.
        priority: Lower is more urgent.
        prefix_id: Which shared prefix its prompt begins with; -1 for none.
        prefix_tokens: Length of that prefix.
        prefix_hashes: Or, instead of both: what identifies each `hash_tokens` tokens of the prompt together with all
            before them; equal numbers mean equal tokens, 0 or more.
        hash_tokens: Tokens that one of these hashes stands for, a multiple of 16.
    """

    id: int
    arrival_s: float
    prompt_tokens: int
    max_new_tokens: int
    priority: int = 0
    prefix_id: int = -1
    prefix_tokens: int = 0
    prefix_hashes: tuple[int, ...] = ()
    hash_tokens: int = HASHED
