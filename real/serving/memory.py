"""How much memory a run takes, known before any is taken."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from policies.checks import InputError
from policies.ledger.opening import book_of
from policies.ledger.paged import Paged
from policies.ledger.rectangle import HEADROOM
from policies.policy import Policy
from real.model.network import Network
from sim.engine.execution import WINDOW_STEP
from workloads.requests import Requests

MOST_BATCHES = 4
"""The most KV memory worth having, in full batches of the longest requests.

A rectangle that grows needs the old and the new one at once, and newcomers lie beside it.
"""

_INDICES = 4 * 8
"""Bytes of the slot, the row and the distance of a token that is read, and of one more index while they are made."""

USABLE = 0.9
"""Share of a device's memory that a run takes when it is not told how much."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a network and a workload need, in bytes.

    Attributes:
        weights: Of the model.
        token: Of keys and values, per token.
        slot: Of activations, per computed token slot.
        read: Of attention's copies in a decode step, per KV token that it reads.
        fixed: Of activations, whatever is computed.
        recorded: Of recorded decode steps, which keep their activations apart from those of other iterations.
        slots: Most token slots that one iteration computes, if KV memory allows.
        reads: Most KV tokens that one decode step reads, if KV memory allows.
        lanes: Iterations that run at once.
        rows: Most rows of a batch.
        longest: Tokens of the longest request.
        smallest: Tokens without which a workload has no request that can be served.
    """

    weights: int
    token: int
    slot: int
    read: int
    fixed: int
    recorded: int
    slots: int
    reads: int
    lanes: int
    rows: int
    longest: int
    smallest: int

    def total(self, kv_tokens: int) -> int:
        """Bytes of a run with so much KV memory: no iteration computes, or reads, more slots than there are."""
        slots, reads = min(self.slots, kv_tokens), min(self.reads, kv_tokens)
        computed = self.lanes * (self.fixed + slots * self.slot + reads * self.read)
        return self.weights + kv_tokens * self.token + computed + self.recorded

    def most_kv_tokens(self, budget: int, wanted: int) -> int:
        """The most KV tokens, up to `wanted`, with which a run needs at most `budget` bytes; 0 if there are none."""
        low, high = 0, wanted
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.total(middle) <= budget else (low, middle - 1)
        return low


def needs_of(network: Network, policies: Iterable[Policy], *workloads: Requests) -> Needs:
    """Bound what any of these policies can need for any of these workloads.

    Activations of a layer are counted as if all were there at once: the residual stream and its norm, queries, keys and
    values before and after rotation, attention's output, the feed-forward layer. Attention under a mask adds what
    `_scores` says, a decode step for each token that it reads what `_read` says.
    """
    model, policies = network.dimensions, list(policies)
    value = network.dtype.itemsize
    recomputes = any(book_of(policy.traits) is Paged for policy in policies)  # a row dropped late is a long prompt
    rows = max(policy.max_batch for policy in policies)
    tokens = [requests.prompt_tokens + requests.max_new_tokens for requests in workloads]
    window = max(int(each.max()) for each in tokens)
    heads = (model.heads + 2 * model.kv_heads) * model.head_dim
    feed_forward = (3 if model.gated else 2) * model.intermediate
    ends = rows * model.vocabulary * (4 + value) + _parts(network, rows)
    token = 2 * model.layers * model.kv_heads * model.head_dim * value
    slot = (4 * model.hidden + 2 * heads + feed_forward) * value + window * _scores(network)
    read = _read(network, policies)
    recorded = 0
    if network.execution.captured:
        # A recording reads the whole table of slots, or capacity of a rectangle, and a slot that is nobody's.
        columns = -(-(window + HEADROOM) // WINDOW_STEP) * WINDOW_STEP
        recorded = ends + rows * slot + rows * columns * read + token
    return Needs(
        weights=network.weight_bytes,
        token=token,
        slot=slot,
        read=read,
        fixed=ends + token,
        recorded=recorded,
        slots=rows * (window if recomputes else max(int(requests.prompt_tokens.max()) for requests in workloads)),
        reads=rows * window,
        lanes=2 if any(policy.traits.lanes != "one" for policy in policies) else 1,
        rows=rows,
        longest=window,
        smallest=max(int(each.min()) for each in tokens),
    )


def _scores(network: Network) -> int:
    """Bytes of a query under a mask, per key: its scores in fp32 and the mask for every head.

    A fused kernel of a GPU keeps scores to itself. It is given a mask, made of four at most, for all queries that share
    a head of keys, and has it twice more as numbers, once of them with its rows aligned.
    """
    model, value = network.dimensions, network.dtype.itemsize
    if network.attention.holds_scores(_weights(network)):
        return model.heads * (4 + value)
    return 4 + model.heads // model.kv_heads * (1 + 2 * value)


def _read(network: Network, policies: Iterable[Policy]) -> int:
    """Bytes of attention's copies in a decode step, per KV token that it reads.

    Every head may have a copy of the key and the value, a query and a product beside it (the fused layout), and its
    score five times in fp32. A kernel of ours reads keys and values where they are, on a GPU; only a batch that is
    concatenated copies a layer of them, and chunks of prompts what comes before them, under a mask.
    """
    model, value = network.dimensions, network.dtype.itemsize
    if not network.attention.by_kernel(_weights(network)):
        return 2 * (model.heads + model.kv_heads) * model.head_dim * value + model.heads * 5 * 4 + _INDICES
    copies = any(policy.traits.concatenates or policy.traits.chunks for policy in policies)
    return copies * (2 * model.kv_heads * model.head_dim * value + _scores(network)) + _INDICES


def _parts(network: Network, rows: int) -> int:
    """Bytes of what the splits of a row give in a decode step, before they are put together."""
    if not network.attention.by_kernel(_weights(network)):
        return 0
    from real.model.kernels import MOST_SPLITS

    model = network.dimensions
    return rows * model.heads * MOST_SPLITS * (model.head_dim + 2) * 4


def _weights(network: Network) -> Tensor:
    weights: Tensor = network.module.get_input_embeddings().weight
    return weights


def kv_tokens_within(needs: Needs, budget: int, given: int | None = None) -> int:
    """Return the KV tokens of a run: those given, or what fits, or fewer if no batch of its requests can fill them.

    Args:
        needs: What the run needs.
        budget: Bytes to use.
        given: KV tokens asked for.

    Raises:
        InputError: The memory asked for, or that of the smallest request, does not fit.
    """
    if given is not None:
        if needs.total(given) > budget:
            raise InputError(
                f"kv_tokens={given}: the run would need {needs.total(given):,} bytes and may use {budget:,}; "
                f"{needs.most_kv_tokens(budget, given):,} KV tokens fit, or give more with memory_bytes="
            )
        return given
    fits = needs.most_kv_tokens(budget, MOST_BATCHES * needs.rows * needs.longest)
    if fits < needs.smallest:
        raise InputError(
            f"the run would need {needs.total(needs.smallest):,} bytes for its smallest request and may use "
            f"{budget:,}; give more with memory_bytes=, or choose a smaller model, max_batch or prompts"
        )
    return fits
