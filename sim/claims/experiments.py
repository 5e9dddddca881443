"""What is simulated for the claims: workloads, policies, and settings; every setting several times."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from policies.baton import Baton
from policies.chunked_prefill import ChunkedPrefill
from policies.orca import Orca
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from policies.run_to_completion import RunToCompletion
from sim.api import Buildable
from sim.claims.options import Size
from sim.claims.verdict import Factor
from sim.metrics.metrics import Summary
from sim.simulation.results import Results
from sim.simulation.setting import Setting
from sim.simulation.simulation import Simulation, compare
from workloads.lengths import Fixed, LogNormal, Uniform
from workloads.sharegpt import ShareGPT
from workloads.synthetic import Synthetic

BATCH = 32
"""Rows where the batch size is not what is varied, the default of every policy."""

PROMPT, OUTPUT, SPREAD = 512, 256.0, 0.7
"""Mean prompt and output tokens, and standard deviation of ln(output), where they are not what is varied."""

LONGEST_OUTPUT = 2048
"""Declared to the scheduler for every request, as in ShareGPT's workload; longer draws are cut."""

ORCAS: dict[str, Policy] = {
    "orca_per_request": Orca(attention="per_request"),
    "orca_rectangular": Orca(layout="rectangular"),
    "orca": Orca(),
}
BATONS: dict[str, Policy] = {
    "baton": Baton(),
    "baton_single": Baton(max_prefill=1),
    "baton_window": Baton(reserve="window"),
    "baton_overlapped": Baton(prefill="overlapped"),
    "baton_dedicated": Baton(prefill="dedicated"),
}
SCHOOLS: dict[str, Policy] = {
    "run_to_completion": RunToCompletion(),
    **ORCAS,
    **BATONS,
    "prefill_first": PrefillFirst(),
    "chunked_prefill": ChunkedPrefill(),
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is simulated.

    Attributes:
        seeds: Runs of every setting, each with random numbers of its own.
        requests: Requests per run, at least, and five per row of the batch; three times as many where schools are
            compared.
        batches: Batch sizes of the maps.
        prompts: Mean prompt lengths of the maps, in tokens.
        spreads: Spreads of output lengths of the maps: standard deviation of ln(output).
    """

    seeds: int
    requests: int
    batches: Sequence[int]
    prompts: Sequence[int]
    spreads: Sequence[float]


SCALES: dict[Size, Scale] = {
    "quick": Scale(seeds=4, requests=150, batches=(8, 32, 128), prompts=(64, 512, 2048), spreads=(0.0, 0.7, 1.4)),
    "full": Scale(
        seeds=5,
        requests=500,
        batches=(8, 16, 32, 64, 128),
        prompts=(64, 256, 512, 1024, 2048),
        spreads=(0.0, 0.35, 0.7, 1.05, 1.4),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A setting in which policies are compared.

    Attributes:
        experiment: Which experiment it belongs to.
        factors: What the setting is, by name.
        workload: What arrives.
        policies: What is compared, by name.
        kv_tokens: KV memory in tokens; None: that of the GPU.
    """

    experiment: str
    factors: Mapping[str, Factor]
    workload: Buildable
    policies: Mapping[str, Policy]
    kv_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """A case, simulated once per seed.

    Attributes:
        case: The setting.
        summaries: Metrics of every run, by policy, in the order of seeds.
    """

    case: Case
    summaries: Mapping[str, Sequence[Summary]]

    def values(self, policy: str, metric: str) -> list[float]:
        """Return a metric of a policy in every run; what is not defined counts as 0."""
        return [float(summary[metric] or 0.0) for summary in self.summaries[policy]]

    def query_throughput(self, policy: str, other: str) -> tuple[list[float], list[float]]:
        """Return requests/s per GPU of two policies in every run.

        Of the saturated part where both have one in every run, else of whole runs, so that like is compared with like.
        """
        pair = (policy, other)
        saturated = all(summary["saturated"] for name in pair for summary in self.summaries[name])
        metric = "saturated_request_throughput" if saturated else "request_throughput"
        one, two = (
            [rate / gpus for rate, gpus in zip(self.values(name, metric), self.values(name, "gpus"), strict=True)]
            for name in pair
        )
        return one, two


def workloads(requests: int) -> dict[str, Buildable]:
    """Return the four workloads by name, all of whose requests are there at the start.

    Args:
        requests: How many each has.
    """
    return {
        "ShareGPT": ShareGPT(num_requests=requests, max_new_cap=LONGEST_OUTPUT),
        "Azure-like": Synthetic(
            prompt=LogNormal(median=760, sigma=0.985, low=1, high=14050),
            output=LogNormal(median=151, sigma=0.859, low=1, high=1000),
            num_requests=requests,
        ),
        "Orca's synthetic": Synthetic(prompt=Uniform(32, 512), output=Uniform(1, 128), num_requests=requests),
        "equal lengths": Synthetic(prompt=Fixed(512), output=Fixed(128), num_requests=requests),
    }


def spread_lengths(requests: int, prompt: int, spread: float) -> Synthetic:
    """Return requests whose outputs have a mean of `OUTPUT` tokens, before cutting, whatever their spread.

    Args:
        requests: How many.
        prompt: Mean prompt, tokens; prompts are uniform from half to one and a half of it.
        spread: Standard deviation of ln(output).
    """
    from math import exp

    median = OUTPUT * exp(-(spread**2) / 2)
    return Synthetic(
        prompt=Uniform(prompt // 2, prompt + prompt // 2),
        output=LogNormal(median=median, sigma=spread, low=1, high=LONGEST_OUTPUT),
        num_requests=requests,
    )


def cases(scale: Scale) -> Iterator[Case]:
    """Yield every setting of every experiment."""
    for name, workload in workloads(3 * scale.requests).items():
        yield Case(experiment="schools", factors={"workload": name}, workload=workload, policies=SCHOOLS)
    pairs = {"prompt": scale.prompts, "spread": scale.spreads}
    for varied, values in pairs.items():
        for batch in scale.batches:
            for value in values:
                factors: dict[str, Factor] = {"batch": batch, "prompt": PROMPT, "spread": SPREAD, varied: value}
                yield Case(
                    experiment=f"throughput by batch and {varied}",
                    factors=factors,
                    workload=spread_lengths(
                        max(scale.requests, 5 * batch), int(factors["prompt"]), float(factors["spread"])
                    ),
                    policies=with_batch(ORCAS | BATONS, batch),
                )
    for kv_tokens in (10_000, 20_000, 40_000, 80_000):
        yield Case(
            experiment="short memory",
            factors={"KV memory": kv_tokens},
            workload=ShareGPT(num_requests=scale.requests, max_new_cap=LONGEST_OUTPUT),
            policies={name: BATONS[name] for name in ("baton", "baton_window")},
            kv_tokens=kv_tokens,
        )


def with_batch(policies: Mapping[str, Policy], batch: int) -> dict[str, Policy]:
    """Return the same policies with so many rows."""
    return {name: replace(policy, max_batch=batch) for name, policy in policies.items()}


def sample(case: Case, setting: Setting, seeds: Sequence[int], on_run: Callable[[], None] = lambda: None) -> Sampled:
    """Simulate a case, all policies on the same requests, once per seed.

    Args:
        case: The setting.
        setting: What it runs on.
        seeds: Of the random numbers.
        on_run: Hears of every run that is over.

    Raises:
        InputError: as `Simulation`.
    """
    if case.kv_tokens is not None:
        setting = replace(setting, kv_tokens=case.kv_tokens)
    summaries: dict[str, list[Summary]] = {name: [] for name in case.policies}
    for seed in seeds:
        requests = case.workload.build(seed)
        for name, policy in case.policies.items():
            summaries[name].append(Simulation(requests, policy, setting).run().summary)
            on_run()
    return Sampled(case=case, summaries=summaries)


def at_load(setting: Setting, scale: Scale, seed: int, load: float = 0.7) -> Results:
    """Compare the policies on ShareGPT chats that arrive at random, at a share of what Orca can serve.

    Args:
        setting: What it runs on.
        scale: How many requests.
        seed: Of the random numbers.
        load: Share of the query throughput of saturated Orca (fused).

    Raises:
        InputError: as `Simulation`.
    """
    count = 3 * scale.requests
    saturated = ShareGPT(num_requests=count, max_new_cap=LONGEST_OUTPUT)
    summary = Simulation(saturated.build(seed), ORCAS["orca"], setting).run().summary
    rate = load * float(summary["saturated_request_throughput"] or summary["request_throughput"] or 1.0)
    names = ("run_to_completion", "orca_per_request", "orca", "baton", "baton_overlapped", "chunked_prefill")
    arriving = replace(saturated, rate=rate).build(seed)
    return compare(arriving, {name: SCHOOLS[name] for name in names}, setting)


def preempting(setting: Setting, scale: Scale, seed: int, kv_tokens: int = 20_000) -> Results:
    """Compare BATON that reserves for the longest answers with BATON that parks rows, where KV memory is short.

    Args:
        setting: What it runs on.
        scale: How many requests.
        seed: Of the random numbers.
        kv_tokens: KV memory, in tokens.

    Raises:
        InputError: as `Simulation`.
    """
    requests = ShareGPT(num_requests=scale.requests, max_new_cap=LONGEST_OUTPUT).build(seed)
    few = {name: BATONS[name] for name in ("baton", "baton_window")}
    return compare(requests, few, replace(setting, kv_tokens=kv_tokens))
