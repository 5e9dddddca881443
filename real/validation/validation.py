"""task=validate: predicts what every policy will achieve, then measures it, and says where the two differ and why.

A prediction is made, and its file written, before anything of what it predicts is measured. All requests at once
come first; the capacity measured there sets the rate of the second load, at which latencies mean something. The
machine drifts, so its pace is taken before each prediction, and policies take turns, in rounds, until the ratios
between them are known well enough.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from policies.checks import InputError
from policies.policy import Policy
from real.configuration import ValidateOptions
from real.model.network import Network
from real.serving.engine import Engine
from real.serving.machine import Machine
from real.serving.prompts import random_prompts
from real.serving.serving import Serving
from real.validation.attribution import Part, attribute, mean_parts
from real.validation.limits import judged
from real.validation.pace import pace
from sim.cost.profile import MeasuredCost, Profile
from sim.engine.iteration_log import IterationLog, Slice, work_of
from sim.metrics.metrics import Summary
from sim.output.writing import write_summary
from sim.simulation.policy_failure import naming
from sim.simulation.simulation import simulate
from workloads.requests import Requests
from workloads.streams import stream

METRICS = (
    "output_throughput",
    "request_throughput",
    "duration_s",
    "mean_ttft_ms",
    "mean_e2el_ms",
    "mean_tpot_ms",
    "mean_itl_ms",
    "p99_e2el_ms",
)
"""What is compared, of those that a policy has; names as in `sim.metrics.metrics`."""

WARM_UP_REQUESTS, WARM_UP_TOKENS = 8, 4

ALL_AT_ONCE = "all at once"
Report = dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Measured:
    """One measured run: its metrics, its time by part, and the share of it in larger iterations than were profiled."""

    summary: Summary
    parts: dict[str, Part]
    beyond: float


class Validation:
    """Predictions of a profile held against measurements.

    Attributes:
        report: What is known so far; complete after `run`. Also after Ctrl-C it can be written.
    """

    def __init__(
        self,
        network: Network,
        policies: Mapping[str, Policy],
        profile: Profile,
        workloads: Mapping[str, Requests],
        folder: Path,
        *,
        kv_tokens: int,
        options: ValidateOptions | None = None,
        seed: int = 0,
        machine: Machine,
        on_round: Callable[[float], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            network: The model, warmed up.
            policies: By name; ratios are between all pairs of them.
            profile: What predicts.
            workloads: Requests by workload name; their arrivals are replaced.
            folder: Where files go; it exists.
            kv_tokens: KV memory, in tokens.
            options: How long to measure.
            seed: Of arrivals, tokens and the order of policies.
            machine: Where and how the model runs.
            on_round: Hears, after every round, which share of the measuring is done.

        Raises:
            InputError: The profile has no costs for this model or a policy.
        """
        if not isinstance(profile, Profile):
            raise InputError("task=validate needs a profile: give hardware=FILE, as task=profile has written it")
        self._network = network
        self._policies = policies
        self._profiled = profile
        self._take(profile)
        self._workloads = workloads
        self._folder = folder
        self._kv_tokens = kv_tokens
        self._options = options or ValidateOptions()
        self._seed = seed
        self._on_round = on_round
        self._rng = np.random.default_rng(seed)
        self._loads = self._loads_left = 2 * len(workloads)
        self._started_s = time.perf_counter()
        self.report: Report = {
            "profile": profile.name,
            "profiled": profile.date,
            **asdict(machine),
            "model": network.dimensions.name,
            "kv_tokens": kv_tokens,
            "seed": seed,
            "complete": False,
            "loads": [],
        }

    def run(self) -> Report:
        """Predict and measure everything; return the report, which is also written as `validation.json`.

        Predictions are in `prediction.json` before they are measured.

        Raises:
            InputError: The KV memory holds no request, a file cannot be written, or the engine cannot run.
            KeyboardInterrupt: On Ctrl-C; what was measured is written.
        """
        self._refuse_too_little_memory()
        self._started_s = time.perf_counter()
        try:
            for name, requests in self._workloads.items():
                capacity = self._validate(name, ALL_AT_ONCE, _all_at_once(requests))
                rate = self._options.load * capacity
                load = f"{self._options.load:g} of the lowest capacity, {rate:.3g} requests/s"
                self._validate(name, load, _at_rate(requests, rate, self._seed))
            self.report["complete"] = True
            self.report["limits"] = judged(self.report)
        finally:
            write_summary(self._folder / "validation.json", self.report)
        return self.report

    def _take(self, profile: Profile) -> None:
        """Let a profile predict from now on."""
        self._profile = profile
        self._costs = {name: _cost(profile, self._network, policy) for name, policy in self._policies.items()}

    def _refuse_too_little_memory(self) -> None:
        """Refuse a policy that would reject every request: nothing could be measured."""
        for workload, requests in self._workloads.items():
            for name in self._policies:
                if not self._predict(name, _all_at_once(requests))["completed"]:
                    raise InputError(
                        f"kv_tokens={self._kv_tokens} holds no request of {workload} under policy {name}; give more"
                    )

    def _validate(self, workload: str, load: str, requests: Requests) -> float:
        """Predict and measure one load; return the lowest request throughput.

        The machine drifts, so its pace is taken first, on other requests, and the profile is brought to it.
        """
        prompts = random_prompts(requests, self._network.dimensions.vocabulary, self._seed)
        self._warm_up(requests, prompts)
        drift = pace(self._network, self._policies, self._profiled, self._seed)
        self._take(self._profiled.at_pace(drift))
        predicted = {name: self._predict(name, requests) for name in self._policies}
        entry: Report = {
            "workload": workload,
            "load": load,
            "num_requests": len(requests),
            "drift": drift,
            "predicted": {name: {metric: summary[metric] for metric in METRICS} for name, summary in predicted.items()},
        }
        self.report["loads"].append(entry)
        write_summary(self._folder / "prediction.json", self.report)
        begin, until = time.perf_counter(), self._until()
        rounds: list[dict[str, _Measured]] = []
        try:
            for place in itertools.count(1):
                rounds.append(self._round(requests, prompts, load != ALL_AT_ONCE))
                error = _standard_error(rounds)
                if self._on_round is not None:
                    self._on_round(self._done(begin, until))
                if place >= self._options.rounds and error <= self._options.standard_error:
                    break
                if time.perf_counter() > until:
                    break
        finally:
            if rounds:
                entry |= self._compare(predicted, rounds)
        return min(_mean([run[name].summary["request_throughput"] for run in rounds]) for name in self._policies)

    def _warm_up(self, requests: Requests, prompts: Sequence[Sequence[int]]) -> None:
        """Let every policy answer the first few requests with a few tokens."""
        few = slice(WARM_UP_REQUESTS)
        short = np.minimum(requests.output_tokens[few], WARM_UP_TOKENS)
        first = replace(
            requests,
            arrival_s=np.zeros(len(short)),
            prompt_tokens=requests.prompt_tokens[few],
            output_tokens=short,
            max_new_tokens=short,
            priority=requests.priority[few],
            prefix_id=requests.prefix_id[few],
            prefix_tokens=requests.prefix_tokens[few],
        )
        for name, policy in self._policies.items():
            with naming(name, policy):
                Engine(first, policy, self._network, prompts[few], IterationLog(), self._kv_tokens).run()

    def _until(self) -> float:
        """When this load's share of the time that is left is over."""
        now = time.perf_counter()
        left = self._options.limit_s - (now - self._started_s)
        share = left / self._loads_left
        self._loads_left -= 1
        return now + share

    def _done(self, begin: float, until: float) -> float:
        """Share of the measuring that is done: the loads before, and of this one the time that it has been given.

        Each load has at least one round, so that time may be up with loads still to come.
        """
        spent = min(1.0, (time.perf_counter() - begin) / (until - begin)) if until > begin else 1.0
        return (self._loads - self._loads_left - 1 + spent) / self._loads

    def _predict(self, name: str, requests: Requests) -> Summary:
        network, policy = self._network, self._policies[name]
        with naming(name, policy):
            return simulate(
                requests,
                policy,
                self._profile,
                network.dimensions,
                kv_tokens=self._kv_tokens,
                execution=network.execution,
            ).summary

    def _round(self, requests: Requests, prompts: Sequence[Sequence[int]], idle_possible: bool) -> dict[str, _Measured]:
        """Serve every policy once, in random order."""
        names = list(self._policies)
        order = self._rng.permutation(len(names))
        return {names[place]: self._serve(names[place], requests, prompts, idle_possible) for place in order}

    def _serve(self, name: str, requests: Requests, prompts: Sequence[Sequence[int]], idle_possible: bool) -> _Measured:
        slices: list[Slice] = []

        def keep(part: Slice) -> None:
            slices.append(part.copy())

        serving = Serving(
            requests,
            self._policies[name],
            self._network,
            prompts,
            self._profile,
            kv_tokens=self._kv_tokens,
            sinks=[keep],
        )
        with naming(name, self._policies[name]):
            serving.run()
        records, costs = np.concatenate(slices), self._costs[name]
        beyond = float(records["duration_s"] @ costs.beyond(work_of(records)) / records["duration_s"].sum())
        return _Measured(serving.result().summary, attribute(records, costs, idle_possible), beyond)

    def _compare(self, predicted: Mapping[str, Summary], rounds: Sequence[Mapping[str, _Measured]]) -> Report:
        """Return what the measured rounds say of the predictions."""
        error, goal = _standard_error(rounds), self._options.standard_error
        reached = len(rounds) >= self._options.rounds and error <= goal
        reason = "one round tells no standard error of the throughput ratios"
        if math.isfinite(error):
            reason = f"the standard error of the throughput ratios is {100 * error:.2g} %, goal {100 * goal:.3g} %"
        if not reached:
            reason = f"its share of validate.limit_s={self._options.limit_s:g} was spent; {reason}"
        return {
            "rounds": len(rounds),
            "standard_error": error if math.isfinite(error) else None,
            "accurate": reached,
            "ended_because": reason,
            "policies": {
                name: _metrics(predicted[name], [run[name].summary for run in rounds]) for name in self._policies
            },
            "ratios": list(_ratios(predicted, rounds)),
            "time": {name: _time(predicted[name], [run[name] for run in rounds]) for name in self._policies},
            "beyond_profile": {name: _mean([run[name].beyond for run in rounds]) for name in self._policies},
            "pace": {name: _pace([run[name] for run in rounds]) for name in self._policies},
        }


def _cost(profile: Profile, network: Network, policy: Policy) -> MeasuredCost:
    return profile.cost_model(network.dimensions, policy.traits)


def _all_at_once(requests: Requests) -> Requests:
    return replace(requests, arrival_s=np.zeros(len(requests)), concurrency=None, arrivals=ALL_AT_ONCE)


def _at_rate(requests: Requests, rate: float, seed: int) -> Requests:
    """Return the requests as a Poisson process of this rate, the first at 0."""
    gaps = stream(seed, "validate").exponential(1 / rate, len(requests))
    arrival_s = np.concatenate([[0.0], np.cumsum(gaps[1:])])
    return replace(requests, arrival_s=arrival_s, concurrency=None, arrivals=f"poisson, {rate:.3g} requests/s")


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(values))


def _standard_error(rounds: Sequence[Mapping[str, _Measured]]) -> float:
    """Return the largest relative standard error of a throughput ratio, over the rounds; infinite after one."""
    names = list(rounds[0])
    if len(rounds) < 2:
        return math.inf
    logs = {name: np.log([_throughput(run[name].summary) for run in rounds]) for name in names}
    pairs = itertools.combinations(names, 2) if len(names) > 1 else [(names[0], None)]
    spreads = [np.std(logs[one] - (logs[other] if other else 0.0), ddof=1) for one, other in pairs]
    return float(max(spreads)) / math.sqrt(len(rounds))


def _metrics(predicted: Summary, measured: Sequence[Summary]) -> Report:
    """Compare metric by metric; `noise` is the relative standard deviation from round to round."""
    compared: Report = {}
    for metric in METRICS:
        values = [summary[metric] for summary in measured]
        if predicted[metric] is None or any(value is None for value in values):
            continue
        mean = _mean(values)
        noise = float(np.std(np.array(values, dtype=np.float64), ddof=1)) / mean if len(values) > 1 else None
        value: Any = predicted[metric]
        compared[metric] = {"predicted": value, "measured": mean, "error": value / mean - 1, "noise": noise}
    return compared


def _ratios(predicted: Mapping[str, Summary], rounds: Sequence[Mapping[str, _Measured]]) -> Iterator[Report]:
    """Compare the throughput ratios of all pairs of policies."""
    for other, one in itertools.combinations(predicted, 2):
        ratios = [_throughput(run[one].summary) / _throughput(run[other].summary) for run in rounds]
        told = _throughput(predicted[one]) / _throughput(predicted[other])
        mean = math.exp(_mean(np.log(ratios).tolist()))
        error = float(np.std(np.log(ratios), ddof=1)) / math.sqrt(len(ratios)) if len(ratios) > 1 else None
        yield {
            "policy": one,
            "to": other,
            "predicted": told,
            "measured": mean,
            "error": told / mean - 1,
            "standard_error": error,
        }


def _throughput(summary: Summary) -> float:
    value = summary["output_throughput"]
    assert value is not None
    return float(value)


def _time(predicted: Summary, runs: Sequence[_Measured]) -> Report:
    """Divide the measured time into parts, and the error with it.

    `other_iterations` is what is left: the prediction ran other iterations than those that were measured, since
    decisions follow the clock, or waited longer for arrivals.
    """
    parts = mean_parts([run.parts for run in runs])
    makespan = _mean([run.summary["duration_s"] for run in runs])
    total = predicted["duration_s"]
    assert total is not None
    priced = sum(part.error_s for part in parts.values())
    shares = {
        name: asdict(part) | {"error_s": part.error_s, "error": part.error_s / makespan} for name, part in parts.items()
    }
    rest = float(total) - makespan - priced
    return {
        "measured_s": makespan,
        "predicted_s": float(total),
        "parts": shares,
        "other_iterations": {"error_s": rest, "error": rest / makespan},
    }


def _pace(runs: Sequence[_Measured]) -> float:
    """Return how many times longer the measured iterations took than the profile says of the same work."""
    parts = [part for run in runs for part in run.parts.values()]
    return sum(part.measured_s for part in parts) / sum(part.priced_s for part in parts)
