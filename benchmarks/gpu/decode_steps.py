"""How long a decode step takes, beside the time of reading what it must read.

A step lasts from the start of one decode iteration to the start of the next, so that whatever the engine does between
them counts. The floor is (weights + live KV) / copy bandwidth: weights without an input embedding of which only a few
rows are read, live KV the tokens that the rows hold, and the bandwidth that a large copy reaches, bytes read plus
written.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.gpu.bench import Bench, median, policies_of, token_bytes
from benchmarks.gpu.record import Record
from real.model.network import Network
from real.profiling.shapes import Shape
from sim.engine.execution import EAGER, GRAPHS, Execution
from sim.engine.iteration_log import Slice
from workloads.streams import stream

EQUAL, SHAREGPT = "equal", "sharegpt"


TARGETED = ("baton_ragged", GRAPHS)
"""Policy and execution that the target is for."""

OTHERS = (
    ("orca", GRAPHS),
    ("orca_per_request", GRAPHS),
    ("baton", GRAPHS),
    ("baton", EAGER),
    ("orca", EAGER),
    ("orca_per_request", EAGER),
    ("baton_ragged", EAGER),
)
"""The others, those first that matter most."""


class Cell(NamedTuple):
    """What is timed: decode steps of a model under a policy, in an execution, with rows of some lengths."""

    model: str
    policy: str
    execution: Execution
    lengths: str
    batch: int

    def __str__(self) -> str:
        return f"{self.model}, {self.policy} {self.execution.name}, {self.lengths}, batch {self.batch}"


class Steps(NamedTuple):
    """Decode steps of a full batch.

    Attributes:
        period_s: From the start of each to the start of the next.
        duration_s: Of each, without what lies between.
        kv_read: Tokens that its rows held.
    """

    period_s: list[float]
    duration_s: list[float]
    kv_read: list[int]


def measure(bench: Bench, record: Record, until: float) -> None:
    """Time every variant of every model, those first that matter most."""
    record.say(bandwidth=bench.bandwidth, steps=bench.sizes.steps)
    for place, model in enumerate(bench.models):
        now = time.perf_counter()
        model_until = now + (until - now) / (len(bench.models) - place)
        for cell in cells_of(model, bench.sizes.step_batches):
            if time.perf_counter() > model_until:
                record.left_out(str(cell))
            else:
                _measure_cell(bench, record, cell)


def cells_of(model: str, batches: Sequence[int]) -> list[Cell]:
    """Return what is timed of a model: first all of the variant that has a target, then the others batch by batch."""
    shapes = [*itertools.product((EQUAL, SHAREGPT), batches)]
    first = [Cell(model, *TARGETED, lengths, batch) for lengths, batch in shapes]
    by_batch = sorted(shapes, key=lambda shape: batches.index(shape[1]))
    return first + [Cell(model, *variant, lengths, batch) for lengths, batch in by_batch for variant in OTHERS]


def _measure_cell(bench: Bench, record: Record, cell: Cell) -> None:
    network = bench.network(cell.model, cell.execution)
    steps = _steps(bench, network, cell)
    weights, token = weights_read(network), token_bytes(network)
    floors = [(weights + kv * token) / bench.bandwidth for kv in steps.kv_read]
    ratios = [period / floor for period, floor in zip(steps.period_s, floors, strict=True)]
    record.add(
        **cell._asdict() | {"execution": cell.execution.name},
        median_step_s=median(steps.period_s),
        median_floor_s=median(floors),
        ratio=median(ratios),
        weights_read=weights,
        bytes_per_token=token,
        period_s=steps.period_s,
        duration_s=steps.duration_s,
        kv_read=steps.kv_read,
    )
    bench.tell(f"{cell}: {1e3 * median(steps.period_s):.2f} ms, {median(ratios):.2f} times its floor")


def weights_read(network: Network) -> int:
    """Bytes of the weights that every decode step reads: all but an input embedding that is not the head as well."""
    embedding = network.module.get_input_embeddings().weight
    tied = network.dimensions.tied_embeddings
    return network.weight_bytes - (0 if tied else embedding.numel() * embedding.element_size())


def lengths_of(bench: Bench, lengths: str, batch: int) -> list[int]:
    """Return how many tokens each row holds as the timed steps begin.

    Of ShareGPT: a prompt and as much of its answer as a moment finds that falls anywhere in it, each alike.
    """
    sizes = bench.sizes
    if lengths == EQUAL:
        return [sizes.equal_tokens] * batch
    requests = bench.sharegpt(batch, sizes.longest)
    answered = stream(bench.seed, "moments").uniform(size=batch) * requests.output_tokens
    held = requests.prompt_tokens + answered.astype(np.int64)
    most: list[int] = np.minimum(held, sizes.longest - sizes.steps - 2).tolist()
    return most


def _steps(bench: Bench, network: Network, cell: Cell) -> Steps:
    shape = Shape(cell.lengths, lengths_of(bench, cell.lengths, cell.batch), [bench.sizes.steps + 2] * cell.batch)
    policy = policies_of(cell.batch)[cell.policy]
    served = bench.serve(network, policy, shape.requests(), shape.kv_tokens(policy))
    return steady_steps(served.records, cell.batch)


def steady_steps(records: Slice, batch: int) -> Steps:
    """Return the steps of a full batch that do nothing but decode, and are followed by another."""
    places = [*_steady(records, batch)]
    start, duration, read = records["start_s"], records["duration_s"], records["kv_read"]
    followed = [place for place, after in itertools.pairwise(places) if after == place + 1]
    return Steps(
        [float(start[place + 1] - start[place]) for place in followed],
        [float(duration[place]) for place in followed],
        [int(read[place]) for place in followed],
    )


def _steady(records: Slice, batch: int) -> Iterator[int]:
    for place, record in enumerate(records):
        changes = record["prefill_rows"] + record["inserted_rows"] + record["kv_copied"] + record["kv_host"]
        if record["rows"] == batch and not changes:
            yield place
