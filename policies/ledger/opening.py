"""The empty ledger that a policy's traits ask for."""

from policies.ledger.batch import Batch
from policies.ledger.book import KVBook, Slots, StaticRectangle
from policies.ledger.concatenated import Concatenated
from policies.ledger.ledger import Ledger
from policies.ledger.paged import Paged
from policies.ledger.prefix_cache import PrefixCache
from policies.ledger.rectangle import Rectangle
from policies.policy import Memory, Policy, Traits
from policies.queue import Predictor, make_queue

Book = Slots | Paged | StaticRectangle | Rectangle

BOOKS: dict[Memory, type[Book]] = {
    "slots": Slots,
    "paged": Paged,
    "prefix_cache": PrefixCache,
    "rectangle": Rectangle,
    "static": StaticRectangle,
}
"""The KV book that each memory is the name of."""


def book_of(traits: Traits) -> type[Book]:
    """Return the class of the KV book that policies with these traits keep."""
    return Concatenated if traits.concatenates else BOOKS[traits.memory]


def make_ledger(policy: Policy, kv_tokens: int, predictor: Predictor, remote_tokens: int | None = None) -> Ledger:
    """Return an empty ledger with the KV book and the queue that a policy asks for.

    Args:
        policy: The policy.
        kv_tokens: KV memory of the batch's GPU, in tokens.
        predictor: What `sjf` orders by.
        remote_tokens: KV memory of the prefill GPU, where the policy has one.
    """
    traits = policy.traits
    batch = Batch(track_longest=issubclass(book_of(traits), Rectangle | StaticRectangle))
    book = _open(traits, kv_tokens, batch, policy.max_batch)
    remote = remote_tokens if traits.lanes == "separate" else None
    return Ledger(batch, book, make_queue(policy.order, predictor), policy.max_batch, traits.hold_finished, remote)


def _open(traits: Traits, limit: int, batch: Batch, max_rows: int) -> KVBook:
    kind = book_of(traits)
    if issubclass(kind, Slots):
        return kind(limit)
    if issubclass(kind, Concatenated):
        return kind(limit, batch, max_rows)
    if issubclass(kind, Rectangle):
        return kind(limit, batch, max_rows, traits.reserve)
    return kind(limit, batch)
