"""From the folders that `python -m real` left to what was measured; nothing of a real model is needed for it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from policies.checks import InputError
from policies.policy import Policy
from sim.claims.experiments import SCHOOLS
from sim.claims.measurement import (
    RATIO,
    SAME_TOKENS,
    SHARES,
    Machine,
    Measured,
    Measurement,
    read_file,
    read_mapping,
    read_text,
)
from sim.config.named import named, names
from sim.config.pretrained import Pretrained
from sim.config.settings import read_model, read_object, refuse_foreign
from sim.cost.device import Device
from sim.cost.model import Model
from sim.cost.profile import Profile
from sim.engine.execution import Execution
from sim.metrics.metrics import Summary
from sim.simulation.simulation import simulate
from workloads.demand import counted
from workloads.requests import Requests

VALIDATION, SUMMARY = "validation.json", "summary.json"

_SETTINGS = Path(".hydra/config.yaml")
_OVERRIDES = Path(".hydra/overrides.yaml")
_SAME_DEMAND = 1e-9
"""Relative difference up to which two mean answers are of the same requests."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """What one command left.

    Attributes:
        path: Its results.
        found: What they say.
        config: What it was told.
        command: The command.
    """

    path: Path
    found: Mapping[str, Any]
    config: Mapping[str, Any]
    command: str

    @property
    def machine(self) -> Machine:
        """Where and how the model ran."""
        with _reading(self.path):
            facts = {"execution": "eager", **self.found}
            return Machine(**{name: facts[name] for name in Machine.__dataclass_fields__})

    @property
    def workload(self) -> str:
        """What is added to the name of a workload."""
        factor, most = self.config.get("length_scale", 1), self.config.get("max_request_tokens")
        scaled = "" if factor == 1 else f", lengths x {factor:g}"
        return scaled if most is None else f"{scaled}, at most {most} tokens"

    def rows(self, policy: str) -> int:
        """Return the most rows of a policy's batch."""
        given = self.config.get("max_batch")
        return int(given) if given is not None else named("policy", policy, Policy).max_batch  # type: ignore[type-abstract]


def collect(paths: Iterable[Path]) -> list[Measured]:
    """Return what was measured, machine by machine.

    Args:
        paths: Folders in which, or below which, `python -m real` left results of runs or of task=validate; or files
            that `python -m sim.claims` wrote.

    Raises:
        InputError: if one cannot be read, or holds no such results.
    """
    found: list[Measured] = []
    for path in paths:
        found += [read_file(path)] if path.is_file() else _of_folder(path)
    return found


def _of_folder(folder: Path) -> list[Measured]:
    """Return what the results below a folder say, one for each machine and model."""
    results = sorted(path for name in (VALIDATION, SUMMARY) for path in folder.rglob(name))
    left = [one for path in results if (path.parent / _SETTINGS).is_file() and (one := left_in(path)) is not None]
    if not left:
        raise InputError(f"{folder}: holds no results of python -m real, of a run or task=validate; give its folder")
    machines: list[tuple[Machine, list[Left]]] = []
    for one in left:
        alike = next((group for machine, group in machines if machine == one.machine), None)
        if alike is None:
            machines.append((one.machine, alike := []))
        alike.append(one)
    return [_measured(machine, group) for machine, group in machines]


def left_in(path: Path) -> Left | None:
    """Return what a command left in its `summary.json` or `validation.json`; None if it was none of `python -m real`.

    Raises:
        InputError: if the file cannot be read, or what it says cannot be used.
    """
    found = read_mapping(read_text(path), str(path))
    if "machine" not in found or "versions" not in found:
        return None
    if found.get("partial"):
        raise InputError(f"{path}: the run was stopped before its end; run it again, or leave it out")
    with _reading(path):
        for name, summary in found.get("policies", {}).items():
            if summary["completed"] < found["num_requests"]:
                raise InputError(
                    f"{path}: {name} completed {summary['completed']} of {found['num_requests']} requests, so policies "
                    "did not do the same work; give more KV memory"
                )
    config, overrides = (_yaml(path.parent / name) for name in (_SETTINGS, _OVERRIDES))
    if not isinstance(config, Mapping) or not isinstance(overrides, list):
        raise InputError(f"{path.parent / _SETTINGS}: is not what python -m real was told; run it again")
    with _reading(path.parent / _SETTINGS):
        refuse_foreign(config)
    return Left(
        path=path, found=found, config=config, command=" ".join(["python -m real", *map(quote, map(str, overrides))])
    )


def _yaml(path: Path) -> Any:
    """Return what a YAML file says; of no file an empty list.

    Raises:
        InputError: if it is not valid.
    """
    try:
        return yaml.safe_load(read_text(path)) if path.is_file() else []
    except yaml.YAMLError:
        raise InputError(f"{path}: not valid YAML; run it again") from None


def _measured(machine: Machine, left: Sequence[Left]) -> Measured:
    results: list[Measurement] = []
    runs: list[list[Left]] = []
    for one in left:
        if one.path.name == VALIDATION:
            with _reading(one.path):
                results += _of_validation(one)
        else:
            alike = next((group for group in runs if _setting(group[0]) == _setting(one)), None)
            if alike is None:
                runs.append(alike := [])
            alike.append(one)
    for group in runs:
        guesses = [predict(one) for one in group]
        with _reading(group[0].path):
            results += _of_runs(group, [guess for guess in guesses if guess is not None] if None not in guesses else [])
    if not results:
        raise InputError(f"{left[0].path}: not one round was finished; run it again")
    last = max(one.path.stat().st_mtime for one in left)
    return Measured(
        machine=machine,
        date=datetime.fromtimestamp(last, UTC).strftime("%Y-%m-%d"),
        commands=list(dict.fromkeys(one.command for one in left)),
        results=results,
    )


def _setting(left: Left) -> tuple[Any, ...]:
    """Return what runs of one setting have in common: everything they were told but the seed."""
    return {name: value for name, value in left.config.items() if name != "seed"}, left.found["options"]


def _of_validation(left: Left) -> Iterator[Measurement]:
    """Yield the ratios that task=validate measured, and predicted before."""
    for load in left.found["loads"]:
        for ratio in load.get("ratios", ()):
            _check_demand(left, load["policies"], ratio)
            yield Measurement(
                metric=RATIO,
                policy=ratio["policy"],
                to=ratio["to"],
                workload=load["workload"] + left.workload,
                load=load["load"],
                num_requests=load["num_requests"],
                max_batch=left.rows(ratio["policy"]),
                repeats=f"{counted(load['rounds'], 'round')} of the same requests, seed {left.found['seed']}",
                count=load["rounds"],
                measured=ratio["measured"],
                standard_error=ratio["standard_error"],
                predicted=ratio["predicted"],
            )


def _check_demand(left: Left, policies: Mapping[str, Any], ratio: Mapping[str, Any]) -> None:
    """Refuse a ratio of output tokens/s that is none of requests/s, since requests were rejected."""
    mean = [
        policies[name]["output_throughput"]["measured"] / policies[name]["request_throughput"]["measured"]
        for name in (ratio["policy"], ratio["to"])
    ]
    if abs(mean[0] / mean[1] - 1) > _SAME_DEMAND:
        raise InputError(
            f"{left.path}: {ratio['policy']} and {ratio['to']} did not serve the same requests; give more KV memory"
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a file lacks into one line that names it."""
    try:
        yield
    except InputError as error:
        told = str(error)
        raise InputError(told if told.startswith(str(path.parent)) else f"{path}: {told}") from None
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]} is missing; run it again") from None
    except (TypeError, AttributeError):
        raise InputError(f"{path}: is not as python -m real leaves it; run it again") from None


def _of_runs(runs: Sequence[Left], predicted: Sequence[Mapping[str, Summary]]) -> Iterator[Measurement]:
    """Yield what runs of the same setting say together, and their predictions, if there are any."""
    first = runs[0].found
    measured: list[Mapping[str, Summary]] = [one.found["policies"] for one in runs]
    for name in first["policies"]:
        for metric in SHARES:
            values, told = ([_number(run[name][metric]) for run in side] for side in (measured, predicted))
            yield _repeated(runs, metric, name, None, values, told)
    for other, name in combinations(first["policies"], 2):
        values, told = ([_ratio(run, name, other) for run in side] for side in (measured, predicted))
        yield _repeated(runs, RATIO, name, other, values, told)
        alike = [_same_tokens(one.path.parent, name, other) for one in runs]
        yield _repeated(runs, SAME_TOKENS, name, other, alike, [])


def _repeated(
    runs: Sequence[Left], metric: str, policy: str, to: str | None, values: Sequence[float], told: Sequence[float]
) -> Measurement:
    """Return a quantity of which every run gave a value, and every prediction, if there are any."""
    first = runs[0].found
    seeds = sorted({int(one.found["seed"]) for one in runs})
    options = first["options"]
    # One answer that differs refutes a statement on all of them, however many other runs are averaged with it.
    mean, error = (min(values), 0.0) if metric == SAME_TOKENS else _mean(metric, values)
    return Measurement(
        metric=metric,
        policy=_label(policy, options),
        to=to and _label(to, options),
        workload=first["workload"] + runs[0].workload,
        load=first["arrivals"],
        num_requests=first["num_requests"],
        max_batch=options[policy]["max_batch"],
        repeats=f"{counted(len(runs), 'run')}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        count=len(runs),
        measured=mean,
        standard_error=error,
        predicted=_mean(metric, told)[0] if told else None,
    )


def _label(name: str, every: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of a policy; one that is not as its name says goes by the name it deserves, or tells its options.

    Args:
        name: What the run called it.
        every: Options of the run's policies, by name; the rows of a batch are no matter of names.
    """
    options = _without_rows(every[name])
    usual = {one: _without_rows(asdict(policy)) for one, policy in SCHOOLS.items()}
    if name in names("policy"):
        usual = {name: _without_rows(asdict(named("policy", name, Policy)))} | usual  # type: ignore[type-abstract]
    if usual.get(name) != options:
        alike = next((one for one, others in usual.items() if others == options), None)
        told = (f"{option}={value}" for option, value in options.items() if usual.get(name, {}).get(option) != value)
        return alike or f"{name} ({', '.join(told)})"
    return name


def _without_rows(options: Mapping[str, Any]) -> dict[str, Any]:
    return {option: value for option, value in options.items() if option != "max_batch"}


def _number(value: Any) -> float:
    return float(value or 0.0)


def _ratio(run: Mapping[str, Summary], one: str, other: str) -> float:
    return _number(run[one]["request_throughput"]) / _number(run[other]["request_throughput"])


def _mean(metric: str, values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error, of ratios the geometric mean and that of its logarithm.

    Of equal values the error is 0, of a single one None.
    """
    if len(set(values)) == 1:
        return values[0], 0.0 if len(values) > 1 else None
    sample = np.log(values) if metric == RATIO else np.asarray(values)
    mean, error = float(sample.mean()), float(sample.std(ddof=1)) / math.sqrt(len(values))
    return math.exp(mean) if metric == RATIO else mean, error


def _same_tokens(folder: Path, one: str, other: str) -> float:
    """Return the share of the requests that two policies answered with the same tokens."""
    answers = [_read(folder / name / "generated.parquet")["tokens"] for name in (one, other)]
    alike = [list(mine) == list(others) for mine, others in zip(*answers, strict=True)]
    return sum(alike) / len(alike)


def _read(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file."""
    try:
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); run it again") from None
    return columns


def predict(left: Left) -> Mapping[str, Summary] | None:
    """Simulate the very requests of a run on the profile it was priced by, with its KV memory and execution.

    Returns:
        Metrics by policy; None if the run had no profile, or its model or a policy is not known here.
    """
    found, config = left.found, left.config
    device = read_object(config, "hardware", Device) if config.get("hardware") is not None else None
    model = _model(left)
    if not isinstance(device, Profile) or model is None or not set(found["options"]) <= set(names("policy")):
        return None
    requests = _requests(left)
    return {
        name: simulate(
            requests,
            named("policy", name, Policy, **options),
            device,
            model,
            kv_tokens=found["kv_tokens"],
            execution=Execution(left.machine.execution),
        ).summary
        for name, options in found["options"].items()
    }


def _model(left: Left) -> Model | None:
    """Return the dimensions of the model that ran; None if they are no longer on disk."""
    model = read_model(left.config)
    if isinstance(model, Pretrained):
        try:
            model = model.dimensions("float32")
        except InputError:
            return None
    return replace(model, bytes_per_value=4 if left.found["dtype"] == "float32" else 2)


def _requests(left: Left) -> Requests:
    """Return the requests as they were served; in a closed loop policies differ in when the clients send them."""
    first, *others = left.found["policies"]
    folder = left.path.parent
    columns = _read((folder / first if others else folder) / "requests.parquet")
    concurrency = left.config["workload"].get("concurrency")
    arrival_s = np.array(columns["arrival_s"], dtype=np.float64)
    whole: Any = {
        name: np.array(columns[name], dtype=np.int64)
        for name in ("prompt_tokens", "output_tokens", "max_new_tokens", "priority", "prefix_id", "prefix_tokens")
    }
    return Requests(
        arrival_s=arrival_s if concurrency is None else np.zeros_like(arrival_s),
        concurrency=concurrency,
        name=left.found["workload"],
        arrivals=left.found["arrivals"],
        **whole,
    )
