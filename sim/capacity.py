"""`task=capacity`: the highest arrival rate at which each policy meets the SLO."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policies.errors import InputError
from policies.policy import Policy
from sim import __version__
from sim.capacity_plots import near, write_capacity_plot
from sim.configuration import Settings
from sim.draws import Draws, at_rate, input_notes, output_warnings, simulated, warm_up_requests
from sim.execution import execution_facts
from sim.metrics import Summary
from sim.options import ATTAINMENT
from sim.progress import Progress
from sim.results import Draft, make_folder, write_summary, writing
from sim.search import Found, Point, Search, unit_rate

_CURVE = (0.3, 0.5, 0.7, 0.85, 0.93, 1.07, 1.15, 1.3)
"""Rates that are tried for the curve alone, as shares of the capacity."""

_FLOODS = 4
"""Saturated runs whose mean throughput is the highest rate."""


class Capacity:
    """The search for the capacity of every policy of the settings, on the same requests."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Build the requests and make the folder.

        Raises:
            InputError: if the input or the folder is one that a person must mend.
        """
        slo = settings.slo
        if slo.ttft_s is None and slo.tpot_s is None:
            raise InputError("task=capacity needs an SLO: give slo.ttft_s=SECONDS, slo.tpot_s=SECONDS or both")
        self.attainment = float(getattr(slo, "attainment", None) or ATTAINMENT)
        workload = unit_rate(settings.workload)
        assert settings.task.replications is not None
        self._settings = settings
        self._replications = settings.task.replications
        self._draws = Draws(workload, settings.seed, self._replications)
        self._check_size(len(self._draws.first))
        self._folder = make_folder(folder)
        self._unit = cache(self._build)
        self._found: dict[str, Found] = {}

    def _check_size(self, requests: int) -> None:
        """Refuse so few requests that a single one decides."""
        counted = requests - warm_up_requests(self._settings, requests)
        needed = math.ceil(1 / (1 - self.attainment) - 1e-9)
        if counted < needed:
            raise InputError(
                f"slo.attainment={self.attainment:g} of {counted:,} requests that count allows none to miss: give "
                f"workload.num_requests={math.ceil(needed / (1 - self._settings.task.warm_up))} or more"
            )

    def _build(self, replication: int) -> Any:
        """Return the requests of a replication at 1 request/s, whatever rate they were recorded at."""
        requests = self._draws(replication)
        recorded = self._draws.first.arrival_s
        if requests.arrival_s[-1] == 0:
            raise InputError("workload: all requests arrive at once, there is no rate to scale; choose another arrival")
        if requests.arrivals.startswith("trace"):
            return at_rate(requests, recorded[-1] / max(len(recorded) - 1, 1))
        return requests

    def __call__(self, console: Console) -> None:
        """Search, write the results and print the table.

        Raises:
            InputError: if a file cannot be written, or a policy cannot be run.
            KeyboardInterrupt: on Ctrl-C; the message says what is saved.
        """
        try:
            for name, policy in self._settings.policies.items():
                self._found[name] = self._search(name, policy)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted: {self._salvage()}") from None
        self._write()
        picture = write_capacity_plot(self._folder, self._found, self._settings.slo, self.attainment)
        self._print(console, picture)

    def _search(self, name: str, policy: Policy) -> Found:
        settings = self._settings

        def simulate(rate: float, replication: int) -> Summary:
            summary = simulated(settings, name, policy, at_rate(self._unit(replication), rate))
            progress.total = max(search.expected, search.runs + 1)
            progress.update(search.runs)
            return summary

        with Progress(name, 0, unit="runs") as progress:
            search = Search(
                simulate,
                self._saturated(name, policy),
                self.attainment,
                settings.task.precision,
                self._replications,
                counted=len(self._draws.first) - warm_up_requests(settings, len(self._draws.first)),
                resampled=self._draws.resampled,
            )
            found = search.run()
            middle = found.rate or found.saturated
            curve = [search.fill(share * middle, middle) for share in _CURVE]
        return replace(found, points=sorted([*found.points, *curve], key=lambda point: point.rate))

    def _saturated(self, name: str, policy: Policy) -> float:
        """Return the requests/s that a policy serves when all are there from the start."""
        rates = []
        for replication in range(min(_FLOODS, self._replications)):
            requests = self._unit(replication)
            flood = replace(requests, arrival_s=np.zeros(len(requests)))
            summary = simulated(self._settings, name, policy, flood)
            key = "saturated_request_throughput" if summary["saturated"] else "request_throughput"
            rates.append(float(summary[key] or 0))
        if not all(rates):
            raise InputError(f"policy {name} serves no request of this workload: give more kv_tokens or shorter ones")
        return float(np.mean(rates))

    def _salvage(self) -> str:
        if not self._found:
            return "the capacity of no policy was found, nothing was saved"
        self._write()
        return f"saved what was found ({', '.join(self._found)}) in {self._folder}"

    def _notes(self) -> list[str]:
        requests = self._draws.first
        left_out = warm_up_requests(self._settings, len(requests))
        notes = input_notes(self._settings, self._draws)
        notes.append(
            f"every rate: up to {self._replications} replications of {len(requests):,} requests, the same gaps scaled"
            + (f"; the first {left_out:,} of each do not count" if left_out else "")
        )
        for name, found in self._found.items():
            if not found.rate:
                best = found.points[0]
                share = float(np.mean(best.attainments))
                notes.append(f"{name}: no rate meets the SLO; at {best.rate:.3g} requests/s {share:.1%} of requests do")
            elif found.limited_by_throughput:
                notes.append(f"{name}: the SLO is met at every rate that can be served; its capacity is its throughput")
        runs = {name: [run for point in near(found) for run in point.runs] for name, found in self._found.items()}
        return [*notes, *output_warnings(self._settings, self._draws, runs)]

    def _write(self) -> None:
        settings, requests = self._settings, self._draws.first
        summary = {
            "task": "capacity",
            "partial": len(self._found) < len(settings.policies),
            "slo": {"ttft_s": settings.slo.ttft_s, "tpot_s": settings.slo.tpot_s, "attainment": self.attainment},
            "precision": settings.task.precision,
            "replications": self._replications,
            "resampled": self._draws.resampled,
            "warm_up_requests": warm_up_requests(settings, len(requests)),
            "capacity": {name: _told(found) for name, found in self._found.items()},
            "workload": requests.name,
            "hardware": settings.hardware.name,
            "model": settings.model.name,
            "seed": settings.seed,
            "version": __version__,
            "num_requests": len(requests),
            "max_new_tokens": requests.declared,
            "kv_tokens": settings.kv_tokens,
            "engine": settings.engine.name,
            "tensor_parallel": settings.hardware.gpus,
            **execution_facts(settings),
            "options": {name: asdict(policy) for name, policy in settings.policies.items()},
            "notes": self._notes(),
        }
        write_summary(self._folder / "summary.json", summary)
        path = self._folder / "capacity.parquet"
        with writing(path), Draft(path) as part:
            pq.write_table(pa.Table.from_pylist(list(_rows(self._found))), part)

    def _print(self, console: Console, picture: Path) -> None:
        settings, requests = self._settings, self._draws.first
        asked = {"TTFT": settings.slo.ttft_s, "TPOT": settings.slo.tpot_s}
        limits = [f"{name} at most {limit:g} s" for name, limit in asked.items() if limit is not None]
        wrap = not console.is_terminal
        for text in (
            f"{requests.name}: highest arrival rate at which {self.attainment:.2%} of requests have "
            f"{' and '.join(limits)}",
            f"{settings.model.name} on {settings.hardware.name}, KV memory {settings.kv_tokens:,} tokens, "
            f"max_new_tokens {requests.declared}",
        ):
            console.print(Text(text), soft_wrap=wrap)
        console.print(_table(self._found, settings.slo.ttft_s, settings.slo.tpot_s))
        console.print()
        for note in self._notes():
            console.print(Text(f"- {note}"), soft_wrap=wrap)
        console.print(Text(f"Results: {self._folder}"), soft_wrap=wrap)
        console.print(Text(f"Pictures: {picture.name}"), soft_wrap=wrap)


def _told(found: Found) -> dict[str, Any]:
    """Return a capacity for `summary.json`."""
    return {
        "requests_per_s": found.rate,
        "low": found.low,
        "high": found.high if math.isfinite(found.high) else None,
        "saturated_request_throughput": found.saturated,
        "limited_by_throughput": found.limited_by_throughput,
    }


def _rows(found: Mapping[str, Found]) -> Iterator[dict[str, Any]]:
    """Yield a row per policy, rate and replication of `capacity.parquet`: all its metrics."""
    for name, each in found.items():
        for point in each.points:
            for replication, run in enumerate(point.runs):
                yield {"policy": name, "rate": point.rate, "replication": replication} | run


def _table(found: Mapping[str, Found], ttft_s: float | None, tpot_s: float | None) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right", overflow="fold", max_width=28)
    every = list(found.values())
    table.add_row("capacity, requests/s", *(_rate(each.rate) for each in every))
    table.add_row("  surely met up to, requests/s", *(_rate(each.low) for each in every))
    missed = (_rate(each.high) if math.isfinite(each.high) else "-" for each in every)
    table.add_row("  surely missed from, requests/s", *missed)
    if every[0].rate:
        table.add_row("  ratio to the first", *(f"{each.rate / every[0].rate:.2f}x" for each in every))
    table.add_row("saturated throughput, requests/s", *(_rate(each.saturated) for each in every))
    for label, metric, wanted in (("p99 TTFT, s", "p99_ttft_ms", ttft_s), ("p99 TPOT, s", "p99_tpot_ms", tpot_s)):
        if wanted is not None:
            table.add_row(f"{label}, at the capacity", *(_at(each, metric) for each in every))
    return table


def _rate(rate: float) -> str:
    return f"{rate:.3g}" if rate else "none"


def _at(found: Found, metric: str) -> str:
    """Show a metric at the capacity, in seconds."""
    at: Point | None = next((point for point in found.points if point.rate == found.rate), None)
    value = at.metric(metric) if at else None
    return "-" if value is None else f"{value / 1e3:.3g}"
