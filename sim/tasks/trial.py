"""Policies on a setting, tried on the requests of replications: what a repetition and a search have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.policy import Policy
from sim.metrics.metrics import Summary
from sim.reporting.caveats import STATES, warnings
from sim.simulation.context import Context, context_on
from sim.simulation.draws import Draws
from sim.simulation.execution import setting_facts
from sim.simulation.notes import extrapolation_notes, setting_notes
from sim.simulation.policy_failure import naming
from sim.simulation.setting import Setting
from sim.simulation.simulation import Simulation
from workloads.requests import Requests


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is tried, on what.

    Attributes:
        setting: What the policies run on.
        policies: The policies, by name.
        draws: The requests of every replication.
        warm_up: Share of the requests, the first to arrive, that does not count.
    """

    setting: Setting
    policies: Mapping[str, Policy]
    draws: Draws
    warm_up: float

    @property
    def requests(self) -> int:
        """Requests of a replication."""
        return len(self.draws.first)

    @property
    def left_out(self) -> int:
        """How many of them do not count."""
        return int(np.floor(self.warm_up * self.requests))

    def run(self, name: str, requests: Requests) -> Summary:
        """Return the metrics of a policy on the requests of one replication, without the warm-up.

        Raises:
            InputError: if the policy cannot be run.
        """
        with naming(name, self.policies[name]):
            return Simulation(requests, self.policies[name], self.setting, warm_up=self.left_out).run().summary

    def context(self, **more: Any) -> Context:
        """Return what it is tried on; `more` are other attributes of it."""
        return context_on(self.setting, self.draws.first, self.draws.seed, **more)

    def facts(self, **more: Any) -> dict[str, Any]:
        """Return what `summary.json` says of it; `more` are other attributes of the context."""
        return self.context(**more).facts(self.policies, **setting_facts(self.setting))

    def notes(self) -> list[str]:
        """Return sentences on the requests, how they are drawn, the engine, and what was not measured."""
        hardware, model = self.setting.hardware, self.setting.model
        costs = [hardware.cost_model(model, policy.traits) for policy in self.policies.values()]
        extrapolated = extrapolation_notes(
            hardware, dict.fromkeys(what for cost in costs for what in cost.extrapolated)
        )
        return [*setting_notes(self.setting, self.policies, self.draws.first, *self.draws.notes), *extrapolated]

    def warnings(self, runs: Mapping[str, Sequence[Summary]]) -> list[str]:
        """Return what a reader of these runs must know, by policy: as of one run, counts being those of all of them."""
        merged: dict[str, Summary] = {}
        for name, each in runs.items():
            counts = {key: sum(int(run.get(key) or 0) for run in each) for key in STATES}
            beyond = [float(run.get("beyond_calibration") or 0) for run in each]
            merged[name] = {**counts, "beyond_calibration": float(np.mean(beyond)), "gpus": each[0].get("gpus")}
        return list(warnings(merged, self.context()))
