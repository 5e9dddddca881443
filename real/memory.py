"""How much memory a run takes, known before any is taken."""

from collections.abc import Iterable
from dataclasses import dataclass

from policies.errors import InputError
from policies.policy import Policy
from real.network import Network
from workloads.requests import Requests

MOST_BATCHES = 4
"""The most KV memory worth having, in full batches of the longest requests.

A rectangle that grows needs the old and the new one at once, and newcomers lie beside it.
"""

USABLE = 0.9
"""Share of a device's memory that a run takes when it is not told how much."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a network and a workload need, in bytes.

    Attributes:
        weights: Of the model.
        token: Of keys and values, per token.
        slot: Of activations, per computed token slot.
        fixed: Of activations, whatever is computed.
        slots: Most token slots that one iteration computes, if KV memory allows.
        lanes: Iterations that run at once.
    """

    weights: int
    token: int
    slot: int
    fixed: int
    slots: int
    lanes: int

    def total(self, kv_tokens: int) -> int:
        """Bytes of a run with so much KV memory: no iteration computes more slots than there are KV slots for."""
        slots = min(self.slots, kv_tokens)
        return self.weights + kv_tokens * self.token + self.lanes * (self.fixed + slots * self.slot)

    def most_kv_tokens(self, budget: int, wanted: int) -> int:
        """The most KV tokens, up to `wanted`, with which a run needs at most `budget` bytes; 0 if there are none."""
        low, high = 0, wanted
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.total(middle) <= budget else (low, middle - 1)
        return low


def needs_of(network: Network, policies: Iterable[Policy], requests: Requests) -> Needs:
    """Bound what any of these policies can need for these requests.

    Activations of a layer are counted as if all were there at once: the residual stream and its norm, queries, keys and
    values before and after rotation, attention's output, the feed-forward layer. Attention under a mask adds, per slot,
    its scores over the longest window in fp32; the fused layout gathers the window's keys and values.
    """
    model, policies = network.dimensions, list(policies)
    value = network.dtype.itemsize
    rows = max(policy.max_batch for policy in policies)
    window = int((requests.prompt_tokens + requests.max_new_tokens).max())
    heads = (model.heads + 2 * model.kv_heads) * model.head_dim
    feed_forward = (3 if model.gated else 2) * model.intermediate
    scores = model.heads * window * (4 + value)
    logits = rows * model.vocabulary * (4 + value)
    gathered = 2 * rows * window * model.kv_heads * model.head_dim * value
    return Needs(
        weights=sum(tensor.numel() * tensor.element_size() for tensor in network.module.parameters()),
        token=2 * model.layers * model.kv_heads * model.head_dim * value,
        slot=(4 * model.hidden + 2 * heads + feed_forward) * value + scores,
        fixed=logits + gathered,
        slots=rows * int(requests.prompt_tokens.max()),
        lanes=2 if any(policy.traits.lanes != "one" for policy in policies) else 1,
    )


def kv_tokens_within(needs: Needs, requests: Requests, budget: int, max_batch: int, given: int | None = None) -> int:
    """Return the KV tokens of a run: those given, or what fits, or fewer if no batch of these requests can fill them.

    Args:
        needs: What the run needs.
        requests: The workload.
        budget: Bytes to use.
        max_batch: Most rows in a batch.
        given: KV tokens asked for.

    Raises:
        InputError: The memory asked for, or that of the smallest request, does not fit.
    """
    tokens = requests.prompt_tokens + requests.max_new_tokens
    if given is not None:
        if needs.total(given) > budget:
            raise InputError(
                f"kv_tokens={given}: the run would need {needs.total(given):,} bytes and may use {budget:,}; "
                f"{needs.most_kv_tokens(budget, given):,} KV tokens fit, or give more with memory_bytes="
            )
        return given
    fits = needs.most_kv_tokens(budget, MOST_BATCHES * max_batch * int(tokens.max()))
    if fits < int(tokens.min()):
        raise InputError(
            f"the run would need {needs.total(int(tokens.min())):,} bytes for its smallest request and may use "
            f"{budget:,}; give more with memory_bytes=, or choose a smaller model, max_batch or prompts"
        )
    return fits
