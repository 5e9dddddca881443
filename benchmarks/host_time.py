"""Host time of a decode step: `python -m benchmarks.host_time`.

The engine serves rows that decode steadily, with recorded steps whose device work is left out: a replay returns canned
tokens at once. What is left of a step is what the host does, policy, ledger and log included. On a GPU there are also
the calls that start a copy, a graph and a copy back. Everybody takes a turn in each round; reported are medians.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from policies.baton import Baton
from policies.orca import Orca
from policies.policy import Policy
from real.model.graphs import Made, Recording
from real.model.network import Network, random_network
from real.profiling.shapes import Shape
from real.serving.engine import Engine
from real.serving.prompts import random_prompts
from sim.engine.execution import GRAPHS
from sim.engine.iteration_log import IterationLog, Slice
from tests.real.models import dimensions

POLICIES: dict[str, Callable[[int], Policy]] = {
    "baton": lambda rows: Baton(max_batch=rows),
    "baton_ragged": lambda rows: Baton(max_batch=rows, attention="ragged"),
    "orca": lambda rows: Orca(max_batch=rows),
}
ROWS = (8, 32, 64)
PROMPT, STEPS = 100, 400
TARGET_S = 150e-6


def canned(recording: Recording) -> Callable[[], Made]:
    """Return a replay that computes nothing."""
    rows = recording._values.shape[1]
    found = torch.stack([torch.ones(rows, dtype=torch.int64), torch.full((rows,), PROMPT)])
    return lambda: (None, found)


def no_logits(self: Network, ids: Tensor, positions: Tensor, step: Any, last: Tensor) -> Tensor:
    """Answer a prefill without computing it."""
    return torch.zeros(len(last), self.dimensions.vocabulary)


@contextmanager
def without_device() -> Iterator[None]:
    """Leave the device's work out."""
    with patch.object(Recording, "_traced", canned), patch.object(Network, "forward", no_logits):
        yield


def serve(network: Network, policy: Policy, rows: int, steps: int = STEPS) -> Slice:
    """Return the log of rows that all decode so many steps."""
    shape = Shape("steady", [PROMPT] * rows, [steps + 1] * rows)
    requests = shape.requests()
    slices: list[Slice] = []
    engine = Engine(
        requests,
        policy,
        network,
        random_prompts(requests, network.dimensions.vocabulary, 0),
        IterationLog(lambda part: slices.append(part.copy())),
        shape.kv_tokens(policy),
    )
    engine.run()
    return np.concatenate(slices)


def host_seconds(network: Network, policy: Policy, rows: int) -> float:
    """Return what a step takes from its start to the start of the next, at the median of a run."""
    records = serve(network, policy, rows)
    steady = records[(records["rows"] == rows) & (records["inserted_rows"] == 0)]
    return float(np.median(np.diff(steady["start_s"])))


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = random_network(dimensions("tiny_llama"), execution=GRAPHS)
    taken: dict[tuple[str, int], list[float]] = {(name, rows): [] for name in POLICIES for rows in ROWS}
    with without_device():
        for _ in range(options.rounds):
            for (name, rows), seconds in taken.items():
                seconds.append(host_seconds(network, POLICIES[name](rows), rows))
    print(f"{'us per decode step':20}" + "".join(f"{f'{rows} rows':>10}" for rows in ROWS) + f"{'target':>10}")
    for name in POLICIES:
        each = [1e6 * statistics.median(taken[name, rows]) for rows in ROWS]
        print(f"{name:20}" + "".join(f"{us:>10.0f}" for us in each) + f"{1e6 * TARGET_S:>10.0f}")


if __name__ == "__main__":
    main()
