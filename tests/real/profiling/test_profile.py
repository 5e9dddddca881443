"""task=profile on a model of toy size: what is measured, what is written, and what the simulator makes of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from policies.baton import Baton
from policies.checks import InputError
from policies.orca import Orca
from policies.policy import Policy
from policies.run_to_completion import RunToCompletion
from real.configuration import ProfileOptions
from real.model.network import Network, random_network
from real.profiling.profiler import Profiler
from real.profiling.shapes import row_counts, shapes
from real.serving.machine import machine_of, measure, warm_up
from sim.config.settings import build
from sim.cost.profile import Profile
from sim.engine.iteration_log import COLUMNS
from sim.simulation.simulation import simulate
from tests.runs import H100, random_requests
from tests.sim.config.test_settings import load

POLICIES: dict[str, Policy] = {
    "static": RunToCompletion(max_batch=2),
    "orca": Orca(max_batch=2),
    "window": Baton(max_batch=2, reserve="window"),
    "overlapped": Baton(max_batch=2, prefill="overlapped"),
    "concatenating": Baton(max_batch=2, embedding="concatenate"),
}


@pytest.fixture(scope="module")
def network() -> Network:
    torch.set_num_threads(1)
    return random_network(build(load("model", "tiny_llama"), "model"))


@pytest.fixture(scope="module")
def profiled(network: Network, tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, Path, list[int]]:
    steps: list[int] = []
    hardware = measure(network, warm_up(network))
    options = ProfileOptions(quick=True, longest=16)
    profiler = Profiler(network, POLICIES, hardware, machine_of(network, "sdpa"), options, on_step=steps.append)
    profile = profiler.run("mine")
    assert steps == list(range(1, profiler.total + 1))
    return profile, profiler.write(profile, tmp_path_factory.mktemp("profile")), steps


def test_every_way_of_execution_has_costs_once(profiled: tuple[Profile, Path, Any]) -> None:
    layouts = {costs.layout: costs for costs in profiled[0].layouts}
    assert list(layouts) == ["static", "selective_fused", "rectangle", "concatenated_rectangle"]
    for layout, costs in layouts.items():
        phases = {fit.phase for fit in costs.fits}
        assert phases == ({"decode", "prefill", "mixed"} if layout == "selective_fused" else {"decode", "prefill"})
        decode = next(term for term in costs.terms if term.name == "decode")
        assert decode.at == [1, 2] and min(decode.seconds) > 0
        assert all(fit.held_out_error is not None for fit in costs.fits if fit.phase == "decode")
    assert layouts["rectangle"].overlap_slowdown != 2.0


def test_the_simulator_takes_the_file(profiled: tuple[Profile, Path, Any], network: Network) -> None:
    profile, path, _ = profiled
    loaded = build(yaml.safe_load(path.read_text()), "hardware")
    assert (loaded.versions, loaded.date) == (profile.versions, profile.date)
    requests = random_requests(20, longest=16)
    for policy in POLICIES.values():
        told, kept = (
            simulate(requests, policy, source, network.dimensions, kv_tokens=2000).summary["duration_s"]
            for source in (loaded, profile)
        )
        assert told == pytest.approx(kept, rel=1e-4)


def test_raw_measurements_lie_beside_the_profile(profiled: tuple[Profile, Path, Any]) -> None:
    profile, path, steps = profiled
    table = pq.read_table(path.with_name(profile.measurements))
    assert set(COLUMNS) < set(table.column_names)
    assert set(table["layout"].to_pylist()) == {costs.layout for costs in profile.layouts}
    assert set(table["lanes"].to_pylist()) == {"one", "shared"}
    assert (np.array(table["kv_host"]) > 0).any(), "rows that follow the window are parked when memory is tight"
    assert len(table) > len(steps)


def test_shapes_cover_rows_prompts_and_windows() -> None:
    assert row_counts(32) == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32]
    grid = shapes(4, 256, quick=False, seed=0)
    alone = [shape for shape in grid if shape.name.startswith("prefill 1 ")]
    assert alone[0].prompts == [4] and alone[-1].prompts == [256]
    decode = [shape for shape in grid if shape.name.startswith("decode")]
    assert {len(shape.prompts) for shape in decode} == {1, 2, 3, 4}
    assert max(max(shape.prompts) for shape in decode) > 128
    assert len({shape.name for shape in grid}) == len(grid)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"longest": 1}, {"quick": 1}, {"limit_s": -1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"profile.{next(iter(options))}"):
        ProfileOptions(**options)


def test_shapes_that_memory_cannot_hold_are_left_out(network: Network) -> None:
    policies: dict[str, Policy] = {"orca": Orca(max_batch=4)}
    machine, options = machine_of(network, "sdpa"), ProfileOptions(quick=True, longest=64)
    whole = Profiler(network, policies, H100, machine, options)
    needs = sorted(whole._need(job) for job in whole._jobs)
    least = min(whole._need(job) for job in whole._jobs if job.shape.name.startswith("decode"))
    for room in (least, needs[-1] - 1, needs[-1]):
        profiler = Profiler(network, policies, H100, machine, options, memory_bytes=room)
        assert profiler.total == sum(need <= room for need in needs) == len(needs) - profiler.left_out
    usable = replace(H100, memory_bytes=needs[-1] / H100.usable_memory - 2)
    assert Profiler(network, policies, usable, machine, options).left_out
    with pytest.raises(
        InputError, match=f"hold no shape to measure decode of layout selective_fused, which .*{least:,}"
    ):
        Profiler(network, policies, H100, machine, options, memory_bytes=least - 1)


def test_interrupted_it_keeps_what_was_measured_and_marks_it(network: Network, tmp_path: Path) -> None:
    def stop(served: int) -> None:
        if served == 3:
            raise KeyboardInterrupt

    machine, policies = machine_of(network, "sdpa"), {"orca": POLICIES["orca"]}
    profiler = Profiler(network, policies, H100, machine, ProfileOptions(quick=True, longest=8), on_step=stop)
    assert profiler.write_partial("mine", tmp_path) is None
    with pytest.raises(KeyboardInterrupt):
        profiler.run("mine")
    path = profiler.write_partial("mine", tmp_path)
    assert path is not None and path.name == "mine.partial.parquet"
    table = pq.read_table(path)
    assert table.schema.metadata[b"partial"] == b"true"
    assert len(set(table["shape"].to_pylist())) == 3
