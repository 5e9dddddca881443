"""ShareGPT chat lengths, drawn from an embedded joint histogram of prompt and output tokens."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np

from workloads.demand import Demand
from workloads.options import Options
from workloads.requests import FloatArray, IntArray, Requests
from workloads.streams import stream

Turns = Literal["first", "multi"]

LONGEST_TOTAL: dict[Turns, int] = {"first": 2048, "multi": 8192}
"""Prompt plus output tokens at most, by `turns`: the filter under which the conversations were counted."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of conversations by prompt and output length.

    Attributes:
        prompt_low: int64 [p], shortest prompt of each row, tokens.
        prompt_high: int64 [p], longest prompt of each row, tokens.
        output_low: int64 [o], shortest output of each column, tokens.
        output_high: int64 [o], longest output of each column, tokens.
        counts: int64 [p, o], conversations in each cell.
        longest_total: prompt plus output tokens at most.
    """

    prompt_low: IntArray
    prompt_high: IntArray
    output_low: IntArray
    output_high: IntArray
    counts: IntArray
    longest_total: int

    def sample(self, prompts: np.random.Generator, outputs: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
        """Draw n pairs: a row by its count, a column by its count in the row, then log-uniformly inside the cell.

        Only the part of a cell whose total is at most `longest_total` is drawn from.

        Returns:
            Prompt and output tokens, int64 [n] each; a larger draw starts with the pairs of a smaller one.
        """
        which_row, where_in_row = prompts.random((n, 2)).T
        which_column, where_in_column = outputs.random((n, 2)).T
        row, column = self._cells(which_row, which_column)
        room = self.longest_total - self.prompt_low[row]
        output = _log_uniform(self.output_low[column], np.minimum(self.output_high[column], room), where_in_column)
        room = self.longest_total - output
        prompt = _log_uniform(self.prompt_low[row], np.minimum(self.prompt_high[row], room), where_in_row)
        return prompt, output

    def _cells(self, which_row: FloatArray, which_column: FloatArray) -> tuple[IntArray, IntArray]:
        """Map numbers in [0, 1) to rows by their counts, and to columns by their counts within the row."""
        cell_ends = np.cumsum(self.counts)
        row_ends = cell_ends[self.counts.shape[1] - 1 :: self.counts.shape[1]]
        row = np.searchsorted(row_ends, np.floor(which_row * row_ends[-1]), side="right")
        row_counts = self.counts.sum(axis=1)
        target = row_ends[row] - row_counts[row] + np.floor(which_column * row_counts[row])
        return row, np.searchsorted(cell_ends, target, side="right") % self.counts.shape[1]


@dataclass(frozen=True, kw_only=True)
class ShareGPT(Options):
    """Chat requests with the joint length distribution of ShareGPT conversations.

    Attributes:
        turns: `first`, first turns under vLLM's benchmark filter (prompt and output at least 4 tokens, prompt at most
            1024, total at most 2048); or `multi`, whole conversations with the history in the prompt (total at most
            8192, output at most 1024).
    """

    turns: Turns = "first"

    def build(self, seed: int) -> Requests:
        """Draw the requests.

        Raises:
            InputError: if the seed is bad or an output exceeds `workload.max_new_cap`.
        """
        assert self.num_requests is not None
        histogram = read_histogram(self.turns)
        lengths = histogram.sample(stream(seed, "prompts"), stream(seed, "outputs"), self.num_requests)
        name = "sharegpt" if self.turns == "first" else "sharegpt_multiturn"
        return self.requests(seed, name, Demand(*lengths), int(histogram.output_high.max()))


@cache
def read_histogram(turns: Turns) -> Histogram:
    """Read the embedded histogram of these turns (`first` or `multi`); workloads/data/README.md names its source."""
    file = resources.files("workloads") / "data" / f"sharegpt_{turns}.csv"
    header, *rows = csv.reader(file.read_text(encoding="utf-8").splitlines())
    prompt_low, prompt_high = _bounds([row[0] for row in rows])
    output_low, output_high = _bounds(header[1:])
    counts = np.array([row[1:] for row in rows], dtype=np.int64)
    return Histogram(prompt_low, prompt_high, output_low, output_high, counts, LONGEST_TOTAL[turns])


def _bounds(ranges: list[str]) -> tuple[IntArray, IntArray]:
    low, high = np.array([text.split("-") for text in ranges], dtype=np.int64).T
    return low, high


def _log_uniform(low: IntArray, high: IntArray, where: FloatArray) -> IntArray:
    """Map `where` in [0, 1) to whole tokens from low to high, both included, uniformly in the logarithm."""
    return np.minimum(low * ((high + 1) / low) ** where, high).astype(np.int64)
