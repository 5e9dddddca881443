"""What one iteration computed: the record that both engines write and that the cost model prices."""

from typing import NamedTuple


class Work(NamedTuple):
    """Counts of one iteration on one lane. Tokens and pairs are per layer-independent sequence position.

    Attributes:
        lane: 0 for the batch, 1 for a prefill that runs beside it.
        rows: Live rows that decoded one token.
        held_rows: Finished rows that were computed all the same.
        inserted_rows: Rows that decoded for the first time since they were prefilled or parked.
        prefill_rows: Prompts prefilled, whole or a chunk of each.
        prefill_tokens: Tokens of these prompts or chunks.
        prefill_pairs: (query, key) pairs that causal attention over them needs: of a chunk of c tokens after p others,
            c*p + c*(c+1)/2.
        prefill_padding: Padded slots that the prefilled group computed.
        prefill_padding_pairs: (query, key) pairs computed for that padding.
        insertion_padding: Slots padded because a newcomer's prompt and the batch shared one rectangle.
        insertion_padding_pairs: (query, key) pairs computed for that padding.
        kv_read: KV tokens of live rows, the new one counted, that decode attention read.
        kv_held: KV tokens that decode attention read for held rows, padding counted.
        kv_padding: KV slots that decode attention read for live rows and that hold no token of theirs.
        kv_copied: KV tokens copied inside GPU memory to shape the batch (each read once and written once).
        kv_host: KV tokens moved to or from host memory.
        attention_launches: Attention kernels launched per layer.
        recomputed_tokens: Those of the prefilled tokens whose KV had been computed before, and was dropped.
        recomputed_pairs: Those of the prefill pairs that belong to them.
        prefill_kv: KV tokens from before this iteration (of earlier chunks, or found in the prefix cache) that the
            prefilled chunks attended to, summed over chunks.
        dummy_rows: Rows that a recorded decode step computed for nobody, to fill up the shape that was recorded.
        kv_dummy: KV slots that decode attention read for them.
    """

    lane: int = 0
    rows: int = 0
    held_rows: int = 0
    inserted_rows: int = 0
    prefill_rows: int = 0
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    prefill_padding: int = 0
    prefill_padding_pairs: int = 0
    insertion_padding: int = 0
    insertion_padding_pairs: int = 0
    kv_read: int = 0
    kv_held: int = 0
    kv_padding: int = 0
    kv_copied: int = 0
    kv_host: int = 0
    attention_launches: int = 0
    recomputed_tokens: int = 0
    recomputed_pairs: int = 0
    prefill_kv: int = 0
    dummy_rows: int = 0
    kv_dummy: int = 0


class DecodeWork(NamedTuple):
    """What an iteration computes that only decodes: fields of `Work`, in its order; the others are 0."""

    rows: int
    held_rows: int
    inserted_rows: int
    kv_read: int
    kv_held: int
    kv_padding: int
    kv_copied: int
    kv_host: int
    attention_launches: int
    dummy_rows: int
    kv_dummy: int

    def work(self, lane: int = 0) -> Work:
        """Return the whole record."""
        rows, held, inserted, read, of_held, padding, copied, host, launches, dummies, of_dummies = self
        return tuple.__new__(
            Work,
            (
                lane, rows, held, inserted, 0, 0, 0, 0, 0, 0, 0, read, of_held, padding, copied, host, launches,
                0, 0, 0, dummies, of_dummies,
            ),
        )  # fmt: skip
