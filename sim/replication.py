"""A comparison repeated with common random numbers, for confidence intervals of its metrics and of its ratios."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from sim import __version__
from sim.configuration import Settings
from sim.draws import Draws, input_notes, output_warnings, simulated, warm_up_requests
from sim.execution import execution_facts
from sim.interval import CONFIDENCE, Interval, interval, ratio_interval, verdict
from sim.metrics import Summary, Value
from sim.progress import Progress
from sim.replication_plots import write_replication_plot
from sim.replication_table import print_replications
from sim.results import Draft, make_folder, write_summary, writing

Values = Mapping[str, Sequence[Value]]
"""A metric's values by name, one per replication."""


class Replicated:
    """What several policies achieved in the same replications.

    Attributes:
        resampled: Whether they were resampled from one trace.
        summaries: The metrics of each replication, by policy.
    """

    def __init__(self, policies: Sequence[str], resampled: bool = False) -> None:
        self.resampled = resampled
        self.summaries: dict[str, list[Summary]] = {name: [] for name in policies}

    @property
    def count(self) -> int:
        """Replications that every policy has."""
        return min(map(len, self.summaries.values()))

    def values(self, policy: str, metric: str) -> list[float] | None:
        """A metric in every replication; None if it is not a number in each."""
        found = [summary.get(metric) for summary in self.summaries[policy][: self.count]]
        numbers = [float(value) for value in found if value is not None and not isinstance(value, bool)]
        return numbers if len(numbers) == len(found) and numbers else None

    def metrics(self) -> list[str]:
        """Names of all metrics, in order."""
        return list(dict.fromkeys(key for each in self.summaries.values() for one in each for key in one))

    def interval(self, policy: str, metric: str) -> Interval | None:
        """The mean of a metric across replications and its interval; None where it is not always defined."""
        values = self.values(policy, metric)
        return None if values is None else interval(values, self.resampled)

    def ratio(self, policy: str, base: str, metric: str) -> Interval | None:
        """A policy's metric over another's, paired; None where it is not always defined and positive."""
        above, below = self.values(policy, metric), self.values(base, metric)
        return None if above is None or below is None else ratio_interval(above, below, self.resampled)

    @property
    def window(self) -> str:
        """Prefix of the throughputs that compare like with like: of the saturated part if every run has one."""
        every = [summary for each in self.summaries.values() for summary in each[: self.count]]
        return "saturated_" if all(summary.get("saturated") for summary in every) else ""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two policies, the later one over the earlier."""
        return [(later, earlier) for earlier, later in combinations(self.summaries, 2)]


class Replication:
    """Every policy of the settings, simulated on the requests of every replication."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the first requests and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        assert settings.task.replications is not None
        self._settings = settings
        self._total = settings.task.replications
        self._draws = Draws(settings.workload, settings.seed, self._total)
        self._folder = make_folder(folder)
        self._done = Replicated(list(settings.policies), self._draws.resampled)

    def __call__(self, console: Console) -> None:
        """Run, write the results and print the table.

        Raises:
            InputError: if a file cannot be written, or a policy cannot be run.
            KeyboardInterrupt: on Ctrl-C; the message says what is saved.
        """
        try:
            self._run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted: {self._salvage()}") from None
        self._write()
        picture = write_replication_plot(self._folder, self._done)
        print_replications(console, self._done, self._heading(), self._notes(), self._folder, picture.name)

    def _run(self) -> None:
        policies = self._settings.policies
        with Progress("replications", self._total * len(policies), unit="runs") as progress:
            for replication in range(self._total):
                requests = self._draws(replication)
                for place, (name, policy) in enumerate(policies.items()):
                    self._done.summaries[name].append(simulated(self._settings, name, policy, requests))
                    progress.update(replication * len(policies) + place + 1)

    def _salvage(self) -> str:
        if self._done.count < 2:
            return "fewer than two replications were finished, nothing was saved"
        self._write()
        return f"saved {self._done.count} of {self._total} replications in {self._folder}"

    def _notes(self) -> list[str]:
        notes, requests = input_notes(self._settings, self._draws), self._draws.first
        left_out = warm_up_requests(self._settings, len(requests))
        if left_out:
            notes.append(f"warm-up: the first {left_out:,} requests of each replication, and the time until the next "
                         "one's prefill, do not count")  # fmt: skip
        spread = [self._done.interval(name, metric) for name in self._done.summaries for metric in self._done.metrics()]
        if not any(each and each.half_width > 0 for each in spread):
            notes.append("every replication gave the same: nothing in this workload is random, intervals mean nothing")
        runs = {name: each[: self._done.count] for name, each in self._done.summaries.items()}
        return [*notes, *output_warnings(self._settings, self._draws, runs)]

    def _heading(self) -> list[str]:
        settings, requests = self._settings, self._draws.first
        last = settings.seed + self._done.count - 1
        return [
            f"{requests.name}: {self._done.count} replications of {len(requests):,} requests, {requests.arrivals}, "
            f"seeds {settings.seed} to {last}, the same for every policy",
            f"{settings.model.name} on {settings.hardware.name}, KV memory {settings.kv_tokens:,} tokens",
            f"max_new_tokens declared to the scheduler: {requests.declared}",
        ]

    def _write(self) -> None:
        write_summary(self._folder / "summary.json", self._summary())
        write_replications(self._folder / "replications.parquet", self._done)

    def _summary(self) -> dict[str, Any]:
        settings, done, requests = self._settings, self._done, self._draws.first
        intervals = {
            name: {metric: told(done.interval(name, metric)) for metric in done.metrics()} for name in done.summaries
        }
        ratios = {
            f"{later}/{earlier}": {
                metric: told(found) | {"verdict": verdict(found)}
                for metric in done.metrics()
                if (found := done.ratio(later, earlier, metric)) is not None
            }
            for later, earlier in done.pairs
        }
        means = {name: {metric: each["estimate"] for metric, each in of.items()} for name, of in intervals.items()}
        return {
            "partial": done.count < self._total,
            "replications": done.count,
            "confidence": CONFIDENCE,
            "resampled": done.resampled,
            "warm_up_requests": warm_up_requests(settings, len(requests)),
            "policies": means,
            "intervals": intervals,
            "ratios": ratios,
            "workload": requests.name,
            "hardware": settings.hardware.name,
            "model": settings.model.name,
            "seed": settings.seed,
            "version": __version__,
            "num_requests": len(requests),
            "arrivals": requests.arrivals,
            "max_new_tokens": requests.declared,
            "kv_tokens": settings.kv_tokens,
            "engine": settings.engine.name,
            "tensor_parallel": settings.hardware.gpus,
            **execution_facts(settings),
            "options": {name: asdict(policy) for name, policy in settings.policies.items()},
            "notes": self._notes(),
        }


def told(found: Interval | None) -> dict[str, Any]:
    """Return an interval for `summary.json`: nulls where it is not defined."""
    ends = {"estimate": None, "low": None, "high": None} if found is None else asdict(found)
    return {name: value if value is not None and math.isfinite(value) else None for name, value in ends.items()}


def write_replications(path: Path, done: Replicated) -> None:
    """Write `replications.parquet`: a row per policy and replication, a column per metric, nulls where undefined.

    Raises:
        InputError: if the file cannot be written.
    """
    rows = [
        {"policy": name, "replication": place} | {metric: summary.get(metric) for metric in done.metrics()}
        for name, summaries in done.summaries.items()
        for place, summary in enumerate(summaries[: done.count])
    ]
    table = pa.Table.from_pylist(rows)
    with writing(path), Draft(path) as part:
        pq.write_table(table, part)
