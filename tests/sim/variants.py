"""Every policy variant that is shipped, small."""

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.orca import Orca
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from policies.run_to_completion import RunToCompletion

VARIANTS: dict[str, Policy] = {
    "run_to_completion": RunToCompletion(max_batch=4),
    "run_to_completion_max_wait": RunToCompletion(max_batch=4, max_wait=0.01, release="early"),
    "orca": Orca(max_batch=4),
    "orca_per_request": Orca(max_batch=4, attention="per_request"),
    "orca_rectangular": Orca(max_batch=4, layout="rectangular"),
    "orca_sjf": Orca(max_batch=4, order="sjf"),
    "orca_priority": Orca(max_batch=4, order="priority"),
    "baton": Baton(max_batch=4),
    "baton_ahead": Baton(max_batch=4, max_prefill=3, prefill_ahead=2),
    "baton_sjf": Baton(max_batch=4, order="sjf"),
    "baton_overlapped": Baton(max_batch=4, prefill="overlapped"),
    "baton_overlapped_ahead": Baton(max_batch=4, prefill="overlapped", prefill_ahead=2),
    "baton_dedicated": Baton(max_batch=4, prefill="dedicated"),
    "baton_window": Baton(max_batch=4, reserve="window"),
    "baton_window_overlapped": Baton(max_batch=4, reserve="window", prefill="overlapped"),
    "baton_direct": Baton(max_batch=4, embedding="direct"),
    "baton_ragged": Baton(max_batch=4, attention="ragged"),
    "baton_ragged_overlapped": Baton(max_batch=4, attention="ragged", prefill="overlapped"),
    "baton_concatenate": Baton(max_batch=4, embedding="concatenate"),
    "baton_concatenate_overlapped": Baton(max_batch=4, embedding="concatenate", prefill="overlapped"),
    "prefill_first": PrefillFirst(max_batch=4, max_batched_tokens=300),
    "prefill_first_cached": PrefillFirst(max_batch=4, max_batched_tokens=300, prefix_caching=True),
    "chunked_prefill": ChunkedPrefill(max_batch=4, token_budget=256),
    "chunked_prefill_no_cache": ChunkedPrefill(max_batch=4, token_budget=64, prefix_caching=False),
    "chunked_prefill_threshold": ChunkedPrefill(max_batch=6, token_budget=100, long_prefill_token_threshold=48),
    "chunked_prefill_tiny": ChunkedPrefill(max_batch=5, token_budget=3),
    "chunked_prefill_full_prompt": ChunkedPrefill(max_batch=4, reserve_full_prompt=True, token_budget=200),
}
