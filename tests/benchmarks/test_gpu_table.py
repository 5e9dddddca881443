"""What is made of findings: ratios with intervals, verdicts, errors of the simulator, the table, files for claims."""

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.claims import ratios_of, verdict, write_claims
from benchmarks.gpu.table import Line, errors_of, lines, step_target, text_of
from sim.claims.measurement import read_file
from sim.metrics.interval import t_quantile


def run_of(
    policy: str, score: float, place: int = 0, batch: int = 32, execution: str = "graphs", **more: Any
) -> dict[str, Any]:
    return {
        "cell": f"batch {batch} {execution}", "batch": batch, "execution": execution, "scale": 0.25, "longest": 256,
        "load": None, "num_requests": 6 * batch, "policy": policy, "round": place, "score": score, "saturated": True,
        "mean_ttft_s": 2.0, "mean_e2e_s": 4.0, **more,
    }  # fmt: skip


def found_of(rows: list[dict[str, Any]], predicted: list[dict[str, Any]] | None = None, **facts: Any) -> dict[str, Any]:
    told = [{name: value for name, value in row.items() if name != "round"} for row in predicted or ()]
    return {
        "machine": "NVIDIA H100 80GB HBM3", "device": "cuda", "model": "llama2_7b", "dtype": "bfloat16", "threads": 8,
        "date": "2026-11-24T10:00:00+00:00", "command": "python -m benchmarks.gpu", "judged": True,
        "versions": {"torch": "2.11.0", "transformers": "5.17.0", "triton": "3.6.0"},
        "plan": ["predictions", "decisive"],
        "parts": {"predictions": {"rows": told}, "decisive": {"rows": rows}},
        **facts,
    }  # fmt: skip


def rounds_of(policy: str, *scores: float, **more: Any) -> list[dict[str, Any]]:
    return [run_of(policy, score, place, **more) for place, score in enumerate(scores)]


# ratios


def test_a_ratio_is_paired_by_round_on_logarithms() -> None:
    rows = rounds_of("baton_ragged", 20, 11, 12) + rounds_of("orca", 10, 10, 10)
    (ratio,) = ratios_of(found_of(rows))
    logs = [math.log(2), math.log(1.1), math.log(1.2)]
    mean = sum(logs) / 3
    half = t_quantile(0.95, 2) * math.sqrt(sum((each - mean) ** 2 for each in logs) / 2 / 3)
    assert (ratio.rounds, ratio.predicted, ratio.saturated) == (3, None, True)
    assert [ratio.found.estimate, ratio.found.low, ratio.found.high] == pytest.approx(
        [math.exp(mean), math.exp(mean - half), math.exp(mean + half)]
    )


def test_rounds_that_only_one_of_them_took_do_not_count() -> None:
    rows = [run_of("baton_ragged", 30, 0), run_of("baton_ragged", 20, 1), run_of("orca", 10, 1), run_of("orca", 1, 2)]
    (ratio,) = ratios_of(found_of(rows))
    assert ratio.rounds == 1 and ratio.found.estimate == pytest.approx(2) and math.isinf(ratio.found.high)


def test_drift_that_both_share_does_not_widen_the_interval() -> None:
    drifting = rounds_of("baton_ragged", 10, 20, 40) + rounds_of("orca", 5, 10, 20)
    (ratio,) = ratios_of(found_of(drifting))
    assert ratio.found.low == pytest.approx(2) == ratio.found.high


def test_one_that_was_not_saturated_makes_the_ratio_so() -> None:
    rows = [run_of("baton_ragged", 30), run_of("orca", 10, saturated=False)]
    assert not ratios_of(found_of(rows))[0].saturated
    text = text_of(found_of(rows))
    assert "32: 3.00 (one round, not saturated)" in text


def test_where_arrivals_decide_there_is_no_ratio_of_throughputs() -> None:
    rows = [run_of("baton_ragged", 30, load=0.7), run_of("orca", 10, load=0.7)]
    told = [run_of("orca", 20, load=0.7)]
    assert ratios_of(found_of(rows, told)) == []
    assert errors_of(found_of(rows, told), []).keys() == {"mean TTFT", "mean E2E"}


# verdicts


def claim(fused: float, per_request: float, rounds: int = 3) -> str:
    ragged = rounds_of("baton_ragged", *[10.0] * rounds)
    others = rounds_of("orca", *[10 / fused] * rounds) + rounds_of("orca_per_request", *[10 / per_request] * rounds)
    return verdict(ratios_of(found_of(ragged + others)))


def test_the_claim_is_judged_by_the_lower_end_of_intervals() -> None:
    assert claim(1.0, 1.7) == "holds in no cell"
    assert claim(1.8, 1.8).startswith("holds as a gain of scheduling: baton_ragged to orca, ")
    assert claim(1.05, 2.0).endswith("refuted as a gain of scheduling: at most 1.05 against the fused kernel")
    assert claim(1.3, 2.0).endswith("as a gain of scheduling open")
    assert verdict([]) == "not measured"
    alone = claim(0.9, 2.0, rounds=1)
    assert alone.startswith("holds in no cell; in one round each, without an interval: baton_ragged to orca_per_req")
    wide = rounds_of("baton_ragged", 20, 40) + rounds_of("orca_per_request", 10, 10)
    assert verdict(ratios_of(found_of(wide))) == "holds in no cell"


# errors of the simulator


def test_a_prediction_is_held_against_the_mean_of_the_rounds() -> None:
    rows = rounds_of("baton_ragged", 9, 11) + rounds_of("orca", 5, 5)
    told = [run_of("baton_ragged", 10.5, mean_ttft_s=1.9), run_of("orca", 5.0, mean_e2e_s=4.2)]
    found = found_of(rows, told)
    errors = errors_of(found, ratios := ratios_of(found))
    assert [error for _, error in errors["throughput"]] == pytest.approx([0.05, 0])
    assert [error for _, error in errors["mean TTFT"]] == pytest.approx([-0.05, 0])
    assert [error for _, error in errors["mean E2E"]] == pytest.approx([0, 0.05])
    assert [error for _, error in errors["ratios of throughput"]] == pytest.approx([2.1 / ratios[0].found.estimate - 1])


# the table


def test_a_step_is_judged_by_its_gpu() -> None:
    assert step_target("NVIDIA H100 80GB HBM3") == 1.30 and step_target("NVIDIA H200") == 1.40
    assert step_target("NVIDIA L40S") is None


def test_the_table_says_what_was_wanted_measured_and_predicted() -> None:
    ragged, fused = rounds_of("baton_ragged", 9.0, 9.0, 9.0), rounds_of("orca", 10.0, 10.0, 10.0)
    told = [run_of("baton_ragged", 9.2), run_of("orca", 10.0)]
    found = found_of(ragged + fused, told, plan=["predictions", "decisive", "peers", "loaded", "ladder", "launches"])
    found["parts"] |= {
        "peers": {
            "rows": [
                {"name": "baton_ragged graphs", "tokens_per_s": 100.0},
                {"name": "generate_batch", "tokens_per_s": 40.0}, {"name": "generate", "tokens_per_s": 40.0},
            ]
        },
        "loaded": {"rows": [], "left_out": [{"what": "a", "why": "no time"}, {"what": "b", "why": "no time"}]},
        "ladder": {
            "rows": [{"policy": "baton_ragged", "execution": "graphs", "batch": 8, "ratio": 1.31}],
            "profiled": [{"batch": 8, "kernels_s": 6e-3, "wall_s": 7e-3, "launched": 475.0}],
            "reason": "RuntimeError: no",
        },
    }  # fmt: skip
    assert lines(found) == [
        Line(
            "baton_ragged to orca, graphs, x 0.25 up to 256, by batch", "measured",
            "32: 0.90 (0.90 to 0.90)", "32: 0.92",
        ),
        Line("1.75 times Orca", "measured", "holds in no cell"),
        Line(
            "error of the simulator, throughput", "within 5%", "+2.2% at worst of 2, baton_ragged, batch 32 graphs",
            met=True,
        ),
        Line("error of the simulator, mean TTFT", "within 8%", "+0.0% at worst of 2, baton_ragged, batch 32 graphs",
             met=True),
        Line("error of the simulator, mean E2E", "within 8%", "+0.0% at worst of 2, baton_ragged, batch 32 graphs",
             met=True),
        Line("error of the simulator, ratios of throughput", "within 3%",
             "+2.2% at worst of 1, baton_ragged to orca, batch 32 graphs", met=True),
        Line("throughput of BATON to generate_batch", "at least 2",
             "2.50, baton_ragged graphs 100 and generate_batch 40 tokens/s", met=True),
        Line("throughput of BATON to generate", "at least 3",
             "2.50, baton_ragged graphs 100 and generate 40 tokens/s", met=False),
        Line("loaded", "", "not measured: no time (a; b)"),
        Line("decode step over its floor, baton_ragged graphs, by batch", "at most 1.30", "8: 1.31", met=False),
        Line("kernels of a step, batch 8", "", "6.00 ms of 7.00 ms by the clock, 475 kernels"),
        Line("ladder", "", "not measured: RuntimeError: no"),
        Line("launches", "", "not measured: not reached"),
    ]  # fmt: skip


def test_the_quick_plan_is_judged_as_well() -> None:
    parts: dict[str, Any] = {
        "kernels": {
            "attention_errors": {"rows": 0.004, "table": 0.02},
            "rows": [{"passed": False, "said": "1 failed, 30 passed"}],
        },
        "tokens": {
            "rows": [
                {"policy": "baton_ragged", "requests": 4, "same_as_eager": 4, "gaps": {}},
                {"policy": "orca", "requests": 4, "same_as_eager": 3, "gaps": {"2": 3e-7}},
            ]
        },
        "mixed steps": {
            "rows": [{"policy": "orca", "tokens": 256, "wall_s": 0.02, "device_s": 0.015, "compile_s": 1.0}]
        },
        "insertion": {"rows": [{"tokens": 1024, "bound_s": 400e-6, "median_s": 401e-6}]},
    }
    assert lines({"plan": list(parts), "parts": parts, "machine": "NVIDIA H100"}) == [
        Line("attention in bf16 against float64, rows", "within 1%", "0.40%", met=True),
        Line("attention in bf16 against float64, table", "within 1%", "2.00%", met=False),
        Line("tests of the kernels", "pass", "1 failed, 30 passed", met=False),
        Line("tokens identical, eager and graphs", "all",
             "7 of 8 answers, baton_ragged, orca, largest gap of logits where they part 3.0e-07", met=False),
        Line("step with a newcomer of 256 tokens, orca", "",
             "20.00 ms by the clock, 15.00 ms by the device; the first 1000.00 ms longer"),
        Line("insertion of 1,024 tokens", "at most 400 us", "401 us", met=False),
    ]  # fmt: skip


def test_policies_that_were_left_out_are_not_vouched_for() -> None:
    tokens = {
        "rows": [{"policy": "orca", "requests": 4, "same_as_eager": 4, "gaps": {}}],
        "left_out": [{"what": "baton", "why": "no time"}],
    }
    first, second = lines({"plan": ["tokens"], "parts": {"tokens": tokens}})
    assert first.met is None and second.measured == "not measured: no time (baton)"
    del tokens["left_out"]
    assert lines({"plan": ["tokens"], "parts": {"tokens": tokens}})[0].met is True


def test_where_the_device_waits_for_the_host_the_table_shows_it() -> None:
    more: dict[str, Any] = {"prefill": {"wall_s": 4.0, "device_s": 1.0}, "decode": {"wall_s": 2.0}}
    told = [line for line in lines(found_of([run_of("orca", 1.0, **more)])) if "last kernel" in line.what]
    assert [(line.what, line.measured) for line in told] == [
        ("first launch to last kernel over time by the clock, iterations with prefill", "orca graphs 25%")
    ]


def test_nothing_is_judged_in_a_rehearsal() -> None:
    found = found_of([run_of("baton_ragged", 3), run_of("orca", 1)], [run_of("orca", 3)])
    assert " NO" in text_of(found) and "rehearsal" not in text_of(found)
    found["judged"] = False
    assert " NO" not in text_of(found) and "A rehearsal: " in text_of(found)


# the files for task=claims


def test_what_was_measured_is_a_measurement_of_the_claims(tmp_path: Path) -> None:
    rows = rounds_of("baton", 18, 20, 22) + rounds_of("orca", 10, 10, 10) + [run_of("orca", 1, execution="eager")]
    told = [run_of("baton", 21), run_of("orca", 10)]
    found = found_of(rows, told)
    found["parts"]["tokens"] = {
        "model": "small_llama", "dtype": "float32", "longest": 128, "max_batch": 12,
        "rows": [
            {"policy": "baton_ragged", "requests": 4, "same_as_first": 4},
            {"policy": "orca", "requests": 4, "same_as_first": 3},
        ],
    }  # fmt: skip
    paths = write_claims(tmp_path, found)
    assert [path.name for path in paths] == ["claims_graphs.json", "claims_tokens.json"], "eager has one side only"
    graphs, tokens = map(read_file, paths)
    assert graphs.machine.execution == "graphs" and "triton" not in graphs.machine.versions
    (result,) = graphs.results
    (ratio,) = ratios_of(found)
    assert (result.policy, result.to, result.count, result.max_batch) == ("baton", "orca", 3, 32)
    assert result.predicted == pytest.approx(2.1)
    assert [result.found.low, result.found.high] == pytest.approx([ratio.found.low, ratio.found.high])
    assert [(each.policy, each.to, each.measured) for each in tokens.results] == [("orca", "baton_ragged", 0.75)]
    assert (tokens.machine.model, tokens.machine.dtype) == ("small_llama", "float32")


def test_of_one_round_no_error_is_known(tmp_path: Path) -> None:
    (path,) = write_claims(tmp_path, found_of([run_of("baton", 2), run_of("orca", 1)]))
    assert read_file(path).results[0].standard_error is None
