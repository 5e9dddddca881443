"""Every policy variant that runs on one device, and every way of embedding newcomers."""

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.policy import Policy
from tests.sim.variants import VARIANTS

ONE_DEVICE: dict[str, Policy] = {
    **{
        name: policy
        for name, policy in VARIANTS.items()
        if policy.traits.lanes != "separate" and not policy.traits.finds_prefixes
    },
    "chunked_prefill_small": ChunkedPrefill(max_batch=4, token_budget=7, prefix_caching=False),
    "baton_direct_window": Baton(max_batch=4, embedding="direct", reserve="window"),
}
