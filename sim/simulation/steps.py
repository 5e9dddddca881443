"""What every row of the batch computes in every iteration of a small run, and what of it served nobody."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.checks import InputError
from policies.plan import Plan
from policies.policy import Policy, Traits
from policies.view import View
from sim.engine.iteration_log import Slice
from sim.engine.layouts import LAYOUTS
from sim.simulation.setting import Setting
from sim.simulation.simulation import Simulation
from workloads.requests import Requests

Kind = Literal["prefill", "decode", "finished", "stalled"]


class Cell(NamedTuple):
    """One row in one iteration.

    Attributes:
        step: The iteration, from 0.
        row: The row, from 0; those beyond `max_batch` lie beside the batch.
        request: Whose row it is.
        kind: `prefill`; `decode`; `finished`: computed though its answer has ended; `stalled`: not computed, it waits
            for the prefill of others.
        slots: Token slots computed.
        useful: Those of them that serve the request.
        kv: KV tokens that its decode reads, padding counted.
        own_kv: Those of them that are the request's own.
    """

    step: int
    row: int
    request: int
    kind: Kind
    slots: int
    useful: int
    kv: int = 0
    own_kv: int = 0

    @property
    def useful_share(self) -> float:
        """Share of the cell that serves its request: of the slots, and of the KV that they read."""
        if not self.useful:
            return 0.0
        return self.useful / self.slots * (self.own_kv / self.kv if self.kv else 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """A run, cell by cell.

    Attributes:
        cells: In order of iterations.
        start_s: float64 [n], when each iteration began.
        duration_s: float64 [n], how long it took.
    """

    cells: tuple[Cell, ...]
    start_s: npt.NDArray[np.float64]
    duration_s: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of iterations."""
        return len(self.start_s)

    @property
    def rows(self) -> int:
        """Rows that were ever used."""
        return 1 + max(cell.row for cell in self.cells)

    def count(self, kind: Kind) -> int:
        """Return how many cells are of a kind."""
        return sum(cell.kind == kind for cell in self.cells)


class _Seen(NamedTuple):
    """What was there as a plan was made: KV tokens of rows, of those beside the batch, of partly prefilled requests."""

    plan: Plan
    rows: dict[int, int]
    ready: dict[int, int]
    parked: dict[int, int]
    partial: dict[int, int]
    prompts: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class _Watched(Policy):
    """A policy, and what it saw and said whenever something was to be done."""

    policy: Policy
    seen: list[_Seen] = field(default_factory=list)

    @property
    def traits(self) -> Traits:
        """Those of the policy."""
        return self.policy.traits

    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Answer as the policy does."""
        plan = self.policy.plan(view, now, lane)
        if plan.prefill or plan.insert or plan.park or plan.drop or plan.decode:
            lengths = plan.tokens or [view.prefill_length(job) for job in plan.prefill]
            self.seen.append(
                _Seen(
                    plan,
                    rows={request: view.length(request) for request in view.rows},
                    ready={request: view.prefill_length(job) for request, job in view.ready.items()},
                    parked={request: length for request, (_, length) in view.parked.items()},
                    partial={request: length for request, (_, length) in view.partial.items()},
                    prompts={job.id: tokens for job, tokens in zip(plan.prefill, lengths, strict=True)},
                )
            )
        return plan


def steps_of(requests: Requests, policy: Policy, setting: Setting) -> Steps:
    """Simulate a policy, iteration by iteration, every step eager: a cell is a row that is somebody's.

    A request keeps its row from its prefill on, though an engine may move rows into holes.

    Args:
        requests: The workload; a small one, for every cell is kept.
        policy: A policy with one lane.
        setting: What it runs on.

    Raises:
        InputError: The policy prefills on a lane of its own, decode steps are recorded, or as `Simulation`.
    """
    if setting.execution.captured:
        raise InputError(f"execution={setting.execution.name}: steps are drawn eager, without dummy rows; use eager")
    if policy.traits.lanes != "one":
        raise InputError("a policy that prefills on a lane of its own has no single order of iterations to draw")
    watched = _Watched(policy=policy, max_batch=policy.max_batch, order=policy.order, predictor=policy.predictor)
    slices: list[Slice] = []
    single = replace(setting, stretch=False)
    Simulation(requests, watched, single, sinks=[lambda part: slices.append(part.copy())]).run()
    log = np.concatenate(slices) if slices else np.empty(0, dtype=[("start_s", "f8"), ("duration_s", "f8")])
    cells = tuple(_cells(watched.seen, policy.traits))
    return Steps(cells=cells, start_s=log["start_s"].copy(), duration_s=log["duration_s"].copy())


def _cells(seen: Iterable[_Seen], traits: Traits) -> Iterator[Cell]:
    seats: dict[int, int] = {}
    held: dict[int, int] = {}
    before: dict[int, int] = {}
    for step, now in enumerate(seen):
        held = _held(now, before, held) if traits.hold_finished else {}
        decoding = _decoding(now)
        _seat(seats, [*now.rows, *held, *now.ready, *now.partial, *now.prompts, *now.plan.insert])
        yield from _prefill_cells(step, now, seats, traits)
        if now.plan.decode:
            yield from _decode_cells(step, now, decoding, held, seats, traits)
        elif now.prompts:
            yield from (Cell(step, seats[request], request, "stalled", 0, 0) for request in now.rows)
        grown = int(now.plan.decode)
        before = {request: length + grown for request, length in decoding.items()} | now.prompts
        held = {request: length + grown for request, length in held.items()}


def _held(now: _Seen, before: Mapping[int, int], held: Mapping[int, int]) -> dict[int, int]:
    """Rows that have ended while their batch runs on, and their KV tokens."""
    if not now.rows:
        return {}
    return {request: length for request, length in {**held, **before}.items() if request not in now.rows}


def _decoding(now: _Seen) -> dict[int, int]:
    """KV tokens of the rows that this iteration decodes, once the plan's rows have left and joined."""
    leaving = {*now.plan.park, *now.plan.drop}
    staying = {request: length for request, length in now.rows.items() if request not in leaving}
    return staying | {request: (now.ready | now.parked)[request] for request in now.plan.insert}


def _seat(seats: dict[int, int], present: Iterable[int]) -> None:
    """Free the rows of requests that have left, and give each newcomer the first free one."""
    there = dict.fromkeys(present)
    for request in [request for request in seats if request not in there]:
        del seats[request]
    for request in there:
        if request not in seats:
            taken = set(seats.values())
            seats[request] = next(row for row in range(len(taken) + 1) if row not in taken)


def _prefill_cells(step: int, now: _Seen, seats: Mapping[int, int], traits: Traits) -> Iterator[Cell]:
    longest = max(now.prompts.values(), default=0)
    padded = LAYOUTS[traits.layout].pads_prompts
    for request, tokens in now.prompts.items():
        yield Cell(step, seats[request], request, "prefill", longest if padded else tokens, tokens)


def _decode_cells(
    step: int,
    now: _Seen,
    decoding: Mapping[int, int],
    held: Mapping[int, int],
    seats: Mapping[int, int],
    traits: Traits,
) -> Iterator[Cell]:
    padded = LAYOUTS[traits.layout].reads_window
    # Newcomers that share a rectangle with the batch make its rows compute as many slots as their longest prompt has.
    slots = max(now.prompts.values(), default=1) if padded else 1
    window = max(1 + max([*decoding.values(), *held.values()]), slots)
    for request, length in decoding.items():
        kv = window if padded else length + 1
        yield Cell(step, seats[request], request, "decode", slots, 1, kv, length + 1)
    for request in held:
        yield Cell(step, seats[request], request, "finished", 1, 0, window, 0)
