"""How much is measured: in full on a GPU, or as little as shows that it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured. Batches come in order of importance: what time does not allow is left out at the end.

    Attributes:
        exact_model: Model of which tokens are compared, in fp32.
        exact_rows: Rows of its batches.
        exact_requests: Requests of which they are.
        exact_tokens: Tokens of the longest of them.
        step_batches: Rows of the decode steps that are timed.
        steps: Decode steps that are timed in a row.
        equal_tokens: Tokens of each row where all are equally long.
        longest: Tokens of the longest request, prompt and answer.
        newcomers: Tokens of the newcomers whose insertion is timed.
        insertions: How many of each are inserted.
        batch: Rows where throughput is measured.
        requests_per_row: Requests of a run, for every row.
        compared: Policies that are both predicted and measured.
        profiled: Policies that a profile knows as well.
        compared_batches: Rows where BATON is compared with Orca.
        compared_scale: Factor of the lengths of those requests.
        rounds: Most rounds of a comparison.
        fine: Whether a profile is taken on a fine grid, if there is time.
    """

    exact_model: str = "small_llama"
    exact_rows: int = 12
    exact_requests: int = 36
    exact_tokens: int = 128
    step_batches: tuple[int, ...] = (64, 1, 16, 4, 32)
    steps: int = 24
    equal_tokens: int = 512
    longest: int = 1024
    newcomers: tuple[int, ...] = (32, 1024)
    insertions: int = 24
    batch: int = 32
    requests_per_row: int = 3
    compared: tuple[str, ...] = ("baton_ragged", "baton", "orca", "orca_per_request")
    profiled: tuple[str, ...] = ("run_to_completion", "baton_overlapped")
    compared_batches: tuple[int, ...] = (32, 64, 16, 8, 4)
    compared_scale: float = 0.25
    rounds: int = 5
    fine: bool = True


FULL = Sizes()
QUICK = Sizes(
    exact_model="tiny_llama",
    exact_rows=2,
    exact_requests=4,
    exact_tokens=16,
    step_batches=(2, 1),
    steps=4,
    equal_tokens=24,
    longest=48,
    newcomers=(32, 1024),
    insertions=4,
    batch=2,
    compared=("baton_ragged", "orca_per_request"),
    profiled=(),
    compared_batches=(2,),
    rounds=1,
    fine=False,
)
