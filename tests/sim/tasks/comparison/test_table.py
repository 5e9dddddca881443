"""The table: what it says, and that it fits where it is printed."""

from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sim.metrics.metrics import Summary
from sim.metrics.slo import SLO
from sim.reporting.caveats import warnings
from sim.reporting.labels import CAUSES
from sim.reporting.table import Grid, heading, print_results
from sim.simulation.context import Context
from sim.simulation.prediction_interval import ENDS
from sim.tasks.comparison.table import comparison_rows
from tests.sim.small_run import POLICIES, make_requests, run

REQUESTS = make_requests(rate=0.0)
SUMMARIES: dict[str, Summary] = {name: run(policy, REQUESTS).summary() for name, policy in POLICIES.items()}
CONTEXT = Context(
    workload="toy",
    requests=120,
    arrivals="all at once",
    declared="max (cap 40)",
    hardware="h100_sxm",
    model="llama3_8b",
    kv_tokens=100_000,
    max_positions=8192,
    notes=("Something was sorted.",),
)


def shown(summaries: Mapping[str, Summary], width: int = 80, context: Context = CONTEXT) -> str:
    text, notes = StringIO(), [*context.notes, *warnings(summaries, context)]
    grid = Grid(summaries, comparison_rows(summaries, context))
    console = Console(file=text, width=width)
    print_results(console, heading(context), grid, (), notes, Path("/results"), [Path("/results/comparison.png")])
    return text.getvalue()


def row(text: str, label: str) -> list[str]:
    """Cells of the first line that starts with a label."""
    line = next(line for line in text.splitlines() if line.strip().startswith(label))
    return line.strip()[len(label) :].split()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_tables_fit_the_width_and_show_every_policy_whole(width: int) -> None:
    lines = shown(SUMMARIES, width).splitlines()
    table = [line for line in lines[3:] if not line.startswith("- ")]
    assert max(map(len, table)) <= width
    names = [name for line in lines if line.startswith("   ") for name in line.split()]
    assert names == list(SUMMARIES)
    assert "…" not in "".join(lines)


def test_values_are_those_of_the_summaries() -> None:
    names = ("run_to_completion", "orca", "baton")
    chosen = {name: dict(SUMMARIES[name]) for name in names}
    chosen["baton"] |= {"saturated": False, "preemptions": 12, "rejected": 1234}
    text = shown(chosen, 100)
    rates = [float(chosen[name]["output_throughput"] or 0) for name in names]  # not all have a saturated part
    assert row(text, "saturated") == ["yes", "yes", "no"]
    assert row(text, "output tokens/s") == [f"{rate:,.0f}" for rate in rates]
    assert row(text, "ratio to the first") == [f"{rate / rates[0]:.2f}x" for rate in rates]
    assert row(text, "idle share of GPU busy time") == [f"{chosen[name]['idle_time_fraction']:.1%}" for name in names]
    assert row(text, "TPOT mean / p99, ms")[0] == "-"
    assert row(text, "KV memory taken at its peak")[1] == f"{(chosen['orca']['kv_peak_tokens'] or 0) / 100_000:.1%}"
    assert row(text, "preemptions") == ["0", "0", "12"]
    assert "goodput" not in text
    assert "baton: not saturated, so the throughput counts the whole run, the drain included." in text
    assert "All throughputs are those of the whole run" in text
    del chosen["baton"]
    rates = [float(summary["saturated_output_throughput"] or 0) for summary in chosen.values()]
    assert row(shown(chosen), "output tokens/s") == [f"{rate:,.0f}" for rate in rates]
    assert "Requests rejected because the KV memory can never hold them: baton 1,234 of 1,354." in text
    for said in ("max (cap 40)", "Something was sorted.", "/results", "comparison.png"):
        assert said in text


def test_a_policy_that_served_nobody_does_not_decide_what_throughputs_are_of() -> None:
    served = dict(SUMMARIES["orca"])
    nobody: Summary = {"completed": 0, "rejected": 7, "unfinished": 0, "saturated": False, "gpus": 1}
    text = shown({"orca": served, "baton": nobody})
    assert "throughput of the saturated part" in text and "those of the whole run" not in text
    assert row(text, "output tokens/s") == [f"{served['saturated_output_throughput']:,.0f}", "-"]
    assert "can never hold them: baton 7 of 7." in text


@pytest.mark.parametrize(
    ("rate", "falls_behind", "state", "said"),
    [
        (3.9, False, "no", "not saturated, so the throughput is that of the arrivals."),
        (3.0, False, "no", "keeps up; the throughput is below that of the arrivals for it counts the drain after the "
         "last arrival, 25% of the run."),
        (3.0, None, "no", "the run cannot tell whether it keeps up (more requests may): the throughput counts the"),
        (3.0, True, "falls behind", "latency grew through the run, by 0.33 s per second of arrivals, and depends on "
         "how long the run is; the throughput is neither that of the arrivals nor the most that can be served."),
    ],
)  # fmt: skip
def test_a_throughput_below_saturation_is_called_what_it_is(
    rate: float, falls_behind: bool | None, state: str, said: str
) -> None:
    orca = dict(SUMMARIES["orca"])
    orca |= {"offered_request_rate": 4.0, "request_throughput": rate, "drain_s": 25.0, "duration_s": 100.0}
    orca |= {"saturated": False, "latency_growth": 1 / 3, "falls_behind": falls_behind}
    text = shown({"orca": orca})
    assert said in text
    assert " ".join(row(text, "saturated")) == state
    assert text.count("orca: ") == 1


def test_several_policies_are_spoken_of_in_the_plural() -> None:
    both = {name: dict(SUMMARIES[name]) for name in ("orca", "baton")}
    for summary in both.values():
        summary |= {"offered_request_rate": 4.0, "request_throughput": 3.0, "drain_s": 25.0, "duration_s": 100.0}
        summary |= {"saturated": False, "falls_behind": False}
    assert "orca and baton: not saturated, and keep up; the throughput is" in shown(both, 200)


def test_short_latencies_are_told_in_milliseconds_with_three_digits() -> None:
    """One unit for a row: milliseconds if no policy takes a second."""
    quick, slow = dict(SUMMARIES["orca"]), dict(SUMMARIES["baton"])
    quick |= {"mean_ttft_ms": 23.456, "p99_ttft_ms": 61.2, "mean_e2el_ms": 45.6, "p99_e2el_ms": 789.0}
    slow |= {"mean_ttft_ms": 345.6, "p99_ttft_ms": 999.0, "mean_e2el_ms": 2345.0, "p99_e2el_ms": 9876.0}
    text = shown({"orca": quick, "baton": slow}, 100)
    assert row(text, "TTFT mean / p99, ms") == ["23.5", "/", "61.2", "346", "/", "999"]
    assert row(text, "E2E mean / p99, s") == ["0.0456", "/", "0.79", "2.35", "/", "9.88"]
    quick["mean_ttft_ms"] = 0.04567
    assert row(shown({"orca": quick}), "TTFT mean / p99, ms")[0] == "0.0457"


def test_what_a_reader_must_know_is_said_when_it_is_so() -> None:
    plain = shown({"orca": SUMMARIES["orca"]})
    assert "ratio" not in plain
    for note in ("Inline BATON", "GPUs; compare", "longer than", "rejected", "not finished"):
        assert note not in plain
    several = {name: SUMMARIES[name] for name in ("baton", "prefill_first", "baton_dedicated")}
    text = shown(several, context=replace(CONTEXT, too_long=3))
    assert row(text, "GPUs used") == ["1", "1", "2"]
    for note in ("Inline BATON schedules almost as prefill_first does", "GPUs; compare", "was made for: 3;"):
        assert note in text


def test_what_two_gpus_give_is_also_told_per_gpu() -> None:
    names = ("baton", "baton_dedicated")
    several = {name: SUMMARIES[name] for name in names}
    text = shown(several, 100)
    rates = [float(several[name]["saturated_output_throughput"] or 0) for name in names]
    assert row(text, "output tokens/s per GPU") == [f"{rates[0]:,.0f}", f"{rates[1] / 2:,.0f}"]
    assert row(text, "ratio to the first per GPU") == ["1.00x", f"{rates[1] / 2 / rates[0]:.2f}x"]
    assert "per GPU" not in shown({name: SUMMARIES[name] for name in ("orca", "baton")}, 100)


def test_the_shown_causes_of_idle_time_add_up() -> None:
    """A cause below 0.5 % has no row, but is not lost: 12.6 = 12 + 0.3 + 0.3."""
    causes = dict.fromkeys((f"idle_time_fraction_{cause}" for cause in CAUSES), 0.0)
    causes |= {"idle_time_fraction_stall": 0.12} | dict.fromkeys(list(causes)[1:3], 0.003)
    text = shown({"orca": {**SUMMARIES["orca"], **causes, "idle_time_fraction": 0.126}})
    assert row(text, "stall") == ["12.0%"]
    assert row(text, "other, each below 0.5%") == ["0.6%"]
    none = dict.fromkeys(causes, 0.0)
    assert "other, each" not in shown({"orca": {**SUMMARIES["orca"], **none}})


def test_intervals_stand_below_what_they_are_of() -> None:
    several = {name: dict(SUMMARIES[name]) for name in ("orca", "baton")}
    ends = {"output_throughput_ratio": (1.11, 1.23), "output_throughput": (900.0, 1100.0), "mean_ttft_ms": (2e3, 3e3)}
    for summary in several.values():
        summary["saturated"] = False
    several["baton"] |= {f"{key}_{end}": value for key in ends for end, value in zip(ENDS, ends[key], strict=True)}
    lines = [" ".join(line.split()) for line in shown(several, 100).splitlines()]
    for what, below in (
        ("output tokens/s", "90% interval - 900 to 1,100"),
        ("ratio to the first", "90% interval - 1.11 to 1.23"),
        ("TTFT mean", "mean, 90% interval - 2.00 to 3.00"),
    ):
        place = next(number for number, line in enumerate(lines) if line.startswith(what))
        assert lines[place + 1] == below
    assert any("errors of the calibration, drawn once per simulation" in line for line in lines)
    assert "interval" not in shown({"orca": SUMMARIES["orca"]})


def test_goodput_is_shown_under_an_slo() -> None:
    summary = run(POLICIES["orca"], REQUESTS).summary(SLO(ttft_s=1e9, tpot_s=1e9))
    assert row(shown({"orca": summary}), "share that met the SLO") == ["100.0%"]
