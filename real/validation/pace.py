"""The pace of a machine, which drifts: how long work takes now, against what a profile says of it."""

from collections.abc import Mapping, Sequence

import numpy as np

from policies.policy import Policy
from real.model.network import Network
from real.profiling.shapes import CHURN, shapes
from real.serving.engine import Engine
from real.serving.prompts import random_prompts
from real.validation.attribution import attribute
from sim.cost.profile import Profile
from sim.engine.iteration_log import IterationLog, Slice
from sim.simulation.simulation import predictor_of

ROUNDS = 2
LONGEST = 128
"""Tokens of the longest prompt, if the model's context allows."""


def pace(network: Network, policies: Mapping[str, Policy], profile: Profile, seed: int) -> float:
    """Return how many times longer than its profile says a machine takes, over requests of its own that come and go.

    Every policy serves them in turn; the profile's costs price the very iterations that were run.

    Raises:
        InputError: The profile has no costs for a policy, or the engine cannot run.
    """
    measured = priced = 0.0
    longest = min(LONGEST, network.dimensions.max_positions // 2)
    for place in range(ROUNDS):
        for policy in policies.values():
            cost = profile.cost_model(network.dimensions, policy.traits)
            parts = attribute(_serve(network, policy, longest, seed + place), cost, idle_possible=False)
            measured += sum(part.measured_s for part in parts.values())
            priced += sum(part.priced_s for part in parts.values())
    return measured / priced


def _serve(network: Network, policy: Policy, longest: int, seed: int) -> Slice:
    """Serve requests of random lengths, all at once; return the log."""
    shape = next(one for one in shapes(policy.max_batch, longest, True, seed) if one.name.startswith(CHURN))
    requests = shape.requests()
    slices: list[Slice] = []
    prompts: Sequence[Sequence[int]] = random_prompts(requests, network.dimensions.vocabulary, seed)
    log = IterationLog(lambda part: slices.append(part.copy()))
    predictor = predictor_of(policy, requests)
    Engine(requests, policy, network, prompts, log, shape.kv_tokens(policy), predictor=predictor).run()
    return np.concatenate(slices)
