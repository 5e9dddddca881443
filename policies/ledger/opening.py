"""The empty ledger that a policy's traits ask for."""

from collections.abc import Callable

from policies.ledger.batch import Batch
from policies.ledger.book import KVBook, Slots, StaticRectangle
from policies.ledger.concatenated import Concatenated
from policies.ledger.ledger import Ledger
from policies.ledger.paged import Paged
from policies.ledger.prefix_cache import PrefixCache
from policies.ledger.rectangle import Rectangle
from policies.policy import Policy
from policies.queue import Predictor, make_queue


def make_ledger(policy: Policy, kv_tokens: int, predictor: Predictor, remote_tokens: int | None = None) -> Ledger:
    """Return an empty ledger with the KV book and the queue that a policy asks for."""
    traits = policy.traits
    batch = Batch(track_longest=traits.memory in ("rectangle", "static"))
    books: dict[str, Callable[[], KVBook]] = {
        "slots": lambda: Slots(kv_tokens),
        "paged": lambda: Paged(kv_tokens, batch),
        "prefix_cache": lambda: PrefixCache(kv_tokens, batch),
        "static": lambda: StaticRectangle(kv_tokens, batch),
        "rectangle": lambda: (
            Concatenated(kv_tokens, batch, policy.max_batch)
            if traits.concatenates
            else Rectangle(kv_tokens, batch, policy.max_batch, traits.reserve)
        ),
    }
    queue = make_queue(policy.order, predictor)
    remote = remote_tokens if traits.lanes == "separate" else None
    return Ledger(batch, books[traits.memory](), queue, policy.max_batch, traits.hold_finished, remote)
