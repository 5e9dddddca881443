"""What BATON's abstract states, and what is said of its mechanism, as bounds on what is simulated."""

from collections.abc import Callable, Iterator, Sequence

from sim.claims.experiments import BATONS, Sampled
from sim.claims.measurement import RATIO
from sim.claims.verdict import Bound, Finding, Statement
from sim.metrics.interval import Interval, interval, ratio_interval

NEAR_ZERO = 0.05
"""What we take "near-zero" for, as a share: the abstract names no number."""

EQUAL = 1.02
"""What we take "no additional" for, as a ratio: equal within 2 %."""

SPEEDUP = 1.75
"""The most that the abstract claims over Orca's query throughput."""

CORRECT = (
    "correct outputs: not a matter of simulation. On a real model on a CPU, tests/real/test_exact.py holds logits and "
    "greedy tokens of every policy against those of each request run alone, notebooks/03_simulated_and_real the tokens"
)

SAME_ANSWERS = "share of the requests answered with the same greedy tokens as under another policy"
"""What is measured of correct outputs beside that."""

ORCA_NAMES = {
    "orca_per_request": "one attention launch per request",
    "orca_rectangular": "newcomers padded into the batch",
    "orca": "one fused, ragged attention kernel",
}
PLACEMENTS: dict[str, str] = {
    "baton": "inline",
    "baton_single": "inline one by one",
    "baton_window": "inline with parking",
    "baton_overlapped": "overlapped",
    "baton_dedicated": "dedicated",
}


def statements(samples: Sequence[Sampled]) -> list[Statement]:
    """Return every statement with what the samples say of it; that of correct outputs apart, see `CORRECT`."""
    return [*_idle(samples), *_resources(samples), *_throughput(samples), *_design(samples)]


def _of(samples: Sequence[Sampled], experiment: str) -> list[Sampled]:
    return [sampled for sampled in samples if sampled.case.experiment.startswith(experiment)]


def _schools(samples: Sequence[Sampled], measure: Callable[[Sampled, str], Interval]) -> list[Finding]:
    """Return a measure of every BATON on every workload."""
    return [
        Finding(
            {"workload": str(sampled.case.factors["workload"]), "prefill": PLACEMENTS[name]}, measure(sampled, name)
        )
        for sampled in _of(samples, "schools")
        for name in BATONS
    ]


def _mean(metric: str) -> Callable[[Sampled, str], Interval]:
    return lambda sampled, name: mean_of(sampled.values(name, metric))


def mean_of(values: Sequence[float]) -> Interval:
    """Return the mean of runs and its interval, of equal values without any width."""
    return Interval(values[0], values[0], values[0]) if len(set(values)) == 1 else interval(values)


def ratio_of(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Return the ratio of paired runs and its interval; without a run above 0 it is unbounded."""
    if values == base:
        return Interval(1.0, 1.0, 1.0)
    return ratio_interval(values, base) or Interval(float("nan"), 0.0, float("inf"))


def _idle(samples: Sequence[Sampled]) -> Iterator[Statement]:
    quantities = {
        "idle_token_fraction": "share of computed token slots that served no request",
        "wasted_time_fraction": "share of GPU busy time lost to padding and finished rows, padded KV reads counted",
        "idle_time_fraction": "the same, rows that wait for others' prefill counted",
    }
    for metric, quantity in quantities.items():
        yield Statement(
            text="near-zero idle computation",
            source="abstract",
            quantity=quantity,
            bound=Bound(NEAR_ZERO),
            findings=_schools(samples, _mean(metric)),
            metric=metric,
        )


def _resources(samples: Sequence[Sampled]) -> Iterator[Statement]:
    def peak(sampled: Sampled, name: str) -> Interval:
        return ratio_of(sampled.values(name, "kv_peak_tokens"), sampled.values("orca", "kv_peak_tokens"))

    def moved(sampled: Sampled, name: str) -> Interval:
        return mean_of(sampled.values(name, "kv_host_tokens"))

    measures = {
        "GPUs used": (1.0, _mean("gpus")),
        "KV memory at its peak, as a ratio to Orca's": (EQUAL, peak),
        "KV tokens moved to host memory": (0.0, moved),
    }
    for quantity, (bound, measure) in measures.items():
        yield Statement(
            text="no additional resources",
            source="abstract",
            quantity=quantity,
            bound=Bound(bound),
            findings=_schools(samples, measure),
        )


def _throughput(samples: Sequence[Sampled]) -> Iterator[Statement]:
    for orca, name in ORCA_NAMES.items():
        yield Statement(
            text=f"up to {SPEEDUP:g} times Orca's query throughput",
            source="abstract",
            quantity=f"requests/s per GPU, as a ratio to Orca with {name}",
            bound=Bound(SPEEDUP, least=True),
            findings=[
                Finding({**sampled.case.factors, "prefill": PLACEMENTS[baton]}, speedup(sampled, baton, orca))
                for sampled in _of(samples, "throughput")
                for baton in BATONS
            ],
            metric=RATIO,
            to=orca,
        )


def speedup(sampled: Sampled, policy: str, orca: str) -> Interval:
    """Return the query throughput of a policy as a ratio to that of an Orca."""
    return ratio_of(*sampled.query_throughput(policy, orca))


def _design(samples: Sequence[Sampled]) -> Iterator[Statement]:
    short = _of(samples, "short memory")
    measures: dict[str, Callable[[Sampled], Interval]] = {
        "requests/s, as a ratio to BATON that reserves for the longest answer": lambda sampled: speedup(
            sampled, "baton_window", "baton"
        ),
        "mean rows of the batch, the same ratio": lambda sampled: ratio_of(
            sampled.values("baton_window", "mean_batch_rows"), sampled.values("baton", "mean_batch_rows")
        ),
    }
    for quantity, measure in measures.items():
        yield Statement(
            text="preemption and batch scaling help where KV memory is short",
            source="design",
            quantity=quantity,
            bound=Bound(1.0, least=True),
            findings=[Finding(sampled.case.factors, measure(sampled)) for sampled in short],
        )
