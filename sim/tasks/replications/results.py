"""What policies achieved in the same replications: intervals of their metrics, and of the ratios between them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import combinations
from typing import TYPE_CHECKING, Any

from policies.checks import InputError
from sim.metrics.interval import CONFIDENCE, Interval, in_words, interval, ratio_interval, shown, verdict
from sim.metrics.metrics import Summary, Value
from sim.output.progress import Progress
from sim.reporting.table import gpus_differ
from sim.simulation.notes import unserved
from sim.simulation.setting import HEADLINES
from sim.tasks.trial import Trial

if TYPE_CHECKING:
    from pandas import DataFrame


class Replicated:
    """What several policies achieved in the same replications.

    Attributes:
        resampled: Whether they were resampled from one trace.
        summaries: The metrics of each replication, by policy.
        notes: Plain sentences on what was simulated, and on what a reader must know.
    """

    def __init__(self, policies: Iterable[str], resampled: bool = False) -> None:
        self.resampled = resampled
        self.summaries: dict[str, list[Summary]] = {name: [] for name in policies}
        self.notes: list[str] = []

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
        """Prefix of the throughputs that compare like with like: of the saturated part if every run has one.

        A policy that served nobody in any replication has none, and does not decide.
        """
        runs = (each[: self.count] for each in self.summaries.values())
        serving = (each for each in runs if any(one.get("completed") != 0 for one in each))
        return "saturated_" if all(one.get("saturated") for each in serving for one in each) else ""

    @property
    def gpus_differ(self) -> bool:
        """Whether policies use different numbers of GPUs, so that their throughputs compare only per GPU."""
        return gpus_differ(each[0] for each in self.summaries.values() if each)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two policies, the later one over the earlier."""
        return [(later, earlier) for earlier, later in combinations(self.summaries, 2)]

    @property
    def intervals(self) -> "DataFrame":
        """A DataFrame with a row per policy and metric: `estimate`, `low`, `high`, the ends of the 95 % interval.

        The estimate is the mean across replications; all three are NaN where the metric is not always defined.
        """
        return _frame(
            ("policy", "metric"),
            {(name, metric): self.interval(name, metric) for name in self.summaries for metric in self.metrics()},
        )

    @property
    def ratios(self) -> "DataFrame":
        """A DataFrame with a row per pair and metric: the paired ratio of `policy` to `base`, and what it says.

        Its columns are `estimate`, `low`, `high` and `verdict`; metrics that are not always defined and positive are
        not in it.
        """
        found = {(*pair, metric): self.ratio(*pair, metric) for pair in self.pairs for metric in self.metrics()}
        known = {key: each for key, each in found.items() if each is not None}
        frame = _frame(("policy", "base", "metric"), known)
        frame["verdict"] = [verdict(each) for each in known.values()]
        return frame

    @property
    def summary(self) -> "DataFrame":
        """A DataFrame with a row per policy and a column per metric: means across replications."""
        return self.intervals["estimate"].unstack("metric").loc[list(self.summaries), self.metrics()]

    @property
    def runs(self) -> "DataFrame":
        """A DataFrame with a row per policy and replication and a column per metric."""
        import pandas as pd

        return pd.DataFrame(self.rows()).set_index(["policy", "replication"])

    def rows(self) -> list[dict[str, str | Value]]:
        """Every metric of every policy in every replication that all policies have; None where it is not defined."""
        return [
            {"policy": name, "replication": place, **{metric: summary.get(metric) for metric in self.metrics()}}
            for name, summaries in self.summaries.items()
            for place, summary in enumerate(summaries[: self.count])
        ]

    def __repr__(self) -> str:
        """Show the headline metrics as text, `mean ± half width`, and below them what the ratios say."""
        return "\n".join([self._headlines().to_string(), *ratio_sentences(self)])

    def _repr_html_(self) -> str:
        """Show the same in a notebook."""
        said = "".join(f"<p>{escape(text)}</p>" for text in ratio_sentences(self))
        return f"{self._headlines().to_html()}{said}"

    def _headlines(self) -> "DataFrame":
        import pandas as pd

        columns = {
            name: {metric: shown(self.interval(name, metric)) for metric in HEADLINES if self.interval(name, metric)}
            for name in self.summaries
        }
        return pd.DataFrame(columns).fillna("-")


def _frame(index: tuple[str, ...], found: "Mapping[Any, Interval | None]") -> "DataFrame":
    """Return intervals as rows."""
    import pandas as pd

    rows = [(None, None, None) if each is None else (each.estimate, each.low, each.high) for each in found.values()]
    frame = pd.DataFrame(rows, columns=["estimate", "low", "high"], dtype=float)
    frame.index = pd.MultiIndex.from_tuples(list(found), names=index)
    return frame


def replicate(trial: Trial, replications: int, done: Replicated) -> None:
    """Run every policy on the requests of every replication, with progress.

    Args:
        trial: What is tried.
        replications: How often, at least twice.
        done: Takes what is done, run by run, so that an interruption leaves it; and in the end the notes.

    Raises:
        InputError: if a policy cannot be run, or none serves a request of a replication.
    """
    with Progress("replications", replications * len(trial.policies), unit="runs") as progress:
        for replication in range(replications):
            requests = trial.draws(replication)
            for place, name in enumerate(trial.policies):
                done.summaries[name].append(trial.run(name, requests))
                progress.update(replication * len(trial.policies) + place + 1)
            first = {name: each[-1] for name, each in done.summaries.items()}
            if reason := unserved(first, requests, trial.context().kv_tokens, trial.policies):
                raise InputError(f"replication {replication}: {reason}")
    done.notes = notes_on_replications(trial, done)


def notes_on_replications(trial: Trial, done: Replicated) -> list[str]:
    """Return sentences on what was simulated, and on what a reader of it must know."""
    notes = trial.notes()
    if trial.left_out:
        notes.append(f"warm-up: the first {trial.left_out:,} requests of each replication, and the time until the next "
                     "one's prefill, do not count")  # fmt: skip
    spread = [done.interval(name, metric) for name in done.summaries for metric in done.metrics()]
    if not any(each and each.half_width > 0 for each in spread):
        notes.append("every replication gave the same: nothing in this workload is random, intervals mean nothing")
    runs = {name: each[: done.count] for name, each in done.summaries.items()}
    notes += _lag_notes(runs, done.count)
    notes += trial.warnings(runs)
    if not done.window:
        notes.append("not every run was saturated: throughputs are those of whole runs")
    if len(done.pairs) > 1:
        notes.append(f"each interval holds by itself with {CONFIDENCE:.0%}, not all at once".replace("%", " %"))
    return notes


def _lag_notes(runs: Mapping[str, Sequence[Summary]], count: int) -> Iterator[str]:
    """Yield sentences on runs that were not saturated and fall behind, or cannot tell whether they do."""
    for name, each in runs.items():
        open_ones = [one for one in each if not one["saturated"] and one["offered_request_rate"] is not None]
        if times := sum(one["falls_behind"] is True for one in open_ones):
            yield (
                f"{name}: falls behind the arrivals without being saturated in {times} of {count} replications: its "
                "throughput is neither theirs nor the most that can be served, and latencies depend on the run's length"
            )
        if times := sum(one["falls_behind"] is None for one in open_ones):
            yield f"{name}: {times} of {count} replications cannot tell whether it keeps up with the arrivals"


_COMPARED = (
    ("throughput", "{window}output_throughput"),
    ("mean TTFT", "mean_ttft_ms"),
    ("mean E2E", "mean_e2el_ms"),
)


def compared_metrics(done: "Replicated") -> list[tuple[str, str]]:
    """Return label and name of what policies are compared by: latencies too where arrivals set the throughput."""
    compared = list(_COMPARED[:1] if done.window else _COMPARED)
    if done.gpus_differ:
        compared.insert(1, ("throughput per GPU", "{window}output_throughput_per_gpu"))
    return [(label, key.format(window=done.window)) for label, key in compared]


def ratio_sentences(done: "Replicated") -> list[str]:
    """Return a sentence per pair of policies: throughput, and latencies where arrivals set the throughput.

    Such as `baton/orca: throughput 1.31, 95 % CI 1.27 to 1.35`.
    """
    sentences = []
    for later, earlier in done.pairs:
        found = ((label, done.ratio(later, earlier, key)) for label, key in compared_metrics(done))
        parts = [f"{label} {in_words(ratio)}" for label, ratio in found if ratio is not None]
        if parts:
            sentences.append(f"{later}/{earlier}: {'; '.join(parts)}")
    return sentences
