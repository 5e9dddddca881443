"""How the tensors of an iteration are laid out: one executor per layout, all behind one small interface."""

from policies.errors import InputError
from policies.ledger import Ledger
from policies.policy import Traits
from real.layouts.chunked import Chunked
from real.layouts.concatenated import Concatenated
from real.layouts.executor import Executor, Outcome
from real.layouts.rectangle import Rectangular, SharedRectangular
from real.layouts.selective import PerRequest
from real.layouts.selective_fused import Fused
from real.layouts.static import Static
from real.network import Network
from real.sequences import Sequences

__all__ = ["Executor", "Outcome", "executor_for"]


def executor_for(traits: Traits, network: Network, ledger: Ledger, sequences: Sequences) -> Executor:
    """Return an executor, without any rows yet, for policies with these traits.

    Args:
        traits: Of the policy.
        network: The model.
        ledger: Whose KV book says where rows lie and how large the rectangle is.
        sequences: The tokens; the executor reads them and leaves it to its caller to append what it generates.

    Raises:
        InputError: There is none for their layout.
    """
    kinds: dict[str, type[Executor]] = {
        "static": Static,
        "selective_per_request": PerRequest,
        "selective_fused": Chunked if traits.chunks else Fused,
        "rectangle": Concatenated if traits.concatenates else Rectangular,
        "shared_rectangle": SharedRectangular,
    }
    if traits.layout not in kinds:
        raise InputError(
            f"layout {traits.layout} (policy.attention=ragged) can only be simulated: use attention=padded"
        )
    return kinds[traits.layout](network, ledger, sequences)
