"""How the tensors of an iteration are laid out: one executor per layout, all behind one small interface."""

from policies.ledger.ledger import Ledger
from policies.policy import Policy
from real.layouts.chunked import Chunked
from real.layouts.concatenated import Concatenated
from real.layouts.executor import Executor, Outcome
from real.layouts.rectangle import RaggedRectangular, Rectangular, SharedRectangular
from real.layouts.selective import PerRequest
from real.layouts.selective_fused import Fused
from real.layouts.selective_pooled import PooledPerRequest
from real.layouts.sequences import Sequences
from real.layouts.static import Static
from real.model.network import Network

__all__ = ["Executor", "Outcome", "executor_for"]


def executor_for(policy: Policy, network: Network, ledger: Ledger, sequences: Sequences) -> Executor:
    """Return an executor, without any rows yet, for a policy.

    Args:
        policy: Whose traits say how tensors are laid out.
        network: The model.
        ledger: Whose KV book says where rows lie and how large the rectangle is.
        sequences: The tokens; the executor reads them and leaves it to its caller to append what it generates.
    """
    traits = policy.traits
    kinds: dict[str, type[Executor]] = {
        "static": Static,
        "selective_per_request": PooledPerRequest if network.execution.captured else PerRequest,
        "selective_fused": Chunked if traits.chunks else Fused,
        "rectangle": Concatenated if traits.concatenates else Rectangular,
        "ragged_rectangle": RaggedRectangular,
        "shared_rectangle": SharedRectangular,
    }
    return kinds[traits.layout](network, ledger, sequences, policy.max_batch)
