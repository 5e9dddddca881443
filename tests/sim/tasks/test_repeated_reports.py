"""report=true of what is repeated: replications, a search for capacity, and prediction intervals."""

import math
from pathlib import Path
from typing import Any

import pytest
from bokeh.models.annotations import BoxAnnotation, Span
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sim.__main__ import main
from sim.metrics.interval import Interval, estimate_and_ends, mean_text
from sim.metrics.slo import SLO
from sim.reporting.charts import Place, RateCurve, Spread, rate_chart, spread_chart
from sim.tasks.capacity.page import answer as capacity_answer
from sim.tasks.capacity.results import Capacities
from sim.tasks.capacity.search import Capacity, TriedRate
from sim.tasks.capacity.table import capacity_lines
from sim.tasks.comparison import run
from sim.tasks.comparison.page import answer as prediction_answer
from sim.tasks.replications.page import answer as replication_answer
from sim.tasks.replications.picture import replications
from sim.tasks.replications.results import Replicated, ratio_sentences
from tests.command_line import run_here, summary
from tests.sim.tasks.comparison.test_page import CONTEXT, PageParser, lines_of, policies, tips_of

FEW = ("max_batch=4", "workload.num_requests=100", "pictures=false", "report=true")


def page(folder: Path, *options: str) -> PageParser:
    """Run the command line and read the page that it leaves."""
    assert run_here(main, *FEW, *options, f"hydra.run.dir={folder}") == 0
    page = PageParser((folder / "report.html").read_text())
    assert not page.fetched()
    for note in summary(folder)["notes"]:
        assert note in page.words
    return page


def tips(page: PageParser) -> list[str]:
    """Return what stands under the pointer."""
    return [tip for plot in page.plots() for tip in tips_of(plot)]


def replicated(**values: list[float]) -> Replicated:
    """Saturated runs with these throughputs."""
    done = Replicated(values)
    for name, each in values.items():
        done.summaries[name] = [{"saturated": True, "saturated_output_throughput": value} for value in each]
    return done


def test_replications_show_intervals_dots_and_what_the_ratios_say(tmp_path: Path) -> None:
    found = page(tmp_path, "policies=[orca_per_request,orca]", "replications=3")
    facts = summary(tmp_path)
    rate = Interval(**facts["intervals"]["orca"]["saturated_output_throughput"])
    ratio = facts["ratios"]["orca/orca_per_request"]["saturated_output_throughput"]
    assert ratio.pop("verdict") == "higher"
    estimate, ends = estimate_and_ends(Interval(**ratio))
    assert f"orca is predicted to be the fastest, with {mean_text(rate)} output tokens/s while saturated" in found.words
    assert f"{estimate} times orca_per_request ({ends})" in found.words
    assert f"{ends}\nhigher" in found.words, "in the table of ratios"
    assert f"orca\n{mean_text(rate)} (95 %)" in tips(found)
    dots = [len(each.data_source.data["x"]) for plot in found.plots() for each in plot.renderers
            if each.name == "replications"]  # fmt: skip
    assert sum(dots) == 4 * 2 * 3, "each replication of each policy in each of four pictures"
    assert [tag for tag, _ in found.tags].count("figure") == 5


@pytest.mark.parametrize(
    ("baton", "said"),
    [
        ([131.0, 130.0, 132.0], "baton is predicted to be the fastest, with 131.0 ± 2.5 output tokens/s while sat"),
        ([100.0, 100.2, 100.1], "orca is equal within 2 % (ratio 1.0010, "),
        ([90.0, 115.0, 101.0], "gives 102 ± 31 output tokens/s while saturated: not distinguished from orca (rat"),
    ],
)  # fmt: skip
def test_the_answer_follows_from_the_interval_of_the_ratio(baton: list[float], said: str) -> None:
    done = replicated(orca=[100.0, 100.0, 100.0], baton=baton)
    told = replication_answer(done, CONTEXT)
    assert said in told
    assert ("fastest" in told) == ("1.31 times orca" in told) == ("fastest" in said)
    (sentence,) = ratio_sentences(done)
    assert sentence.split("CI ")[1].split(":")[0] in told, "the interval is that of the terminal"


def test_below_saturation_latency_decides_replications_too() -> None:
    done = Replicated(("orca", "baton"))
    for name, times in (("orca", [1000.0, 1010.0, 990.0]), ("baton", [2000.0, 2010.0, 1990.0])):
        done.summaries[name] = [{"saturated": False, "mean_e2el_ms": time} for time in times]
    told = replication_answer(done, CONTEXT)
    assert "over 3 replications, orca is predicted to be the quickest, with 1.000 ± 0.025 s" in told
    assert "baton takes 2.0" in told
    done.summaries["orca"][0]["mean_e2el_ms"] = done.summaries["baton"][0]["mean_e2el_ms"] = None
    assert replication_answer(done, CONTEXT).endswith("not every request was finished.")


def test_capacity_shows_the_knee_on_every_curve(tmp_path: Path) -> None:
    slo = ("slo.ttft_s=0.2", "slo.tpot_s=0.05", "slo.attainment=0.9")
    search = ("task=capacity", "replications=2", "precision=0.3")
    found = page(tmp_path, *slo, *search, "policies=[orca_per_request,orca]")
    rates = {name: told["requests_per_s"] for name, told in summary(tmp_path)["capacity"].items()}
    best = max(rates, key=lambda name: rates[name])
    assert f"{best} serves up to {rates[best]:.2f} requests/s such that 90 % of requests have TTFT" in found.words
    assert "poisson, every rate that was tried" in found.words
    plots = found.plots()
    knees = [each for plot in plots for each in plot.renderers if each.name == "capacity"]
    lines = [line for plot in plots for line in plot.center if isinstance(line, Span) and line.dimension == "height"]
    assert len(lines) == 3 * 2 and len(knees) == 3 * 2
    for name, rate in rates.items():
        at = [tip for tip in tips(found) if tip.startswith(f"{name}\n") and f"at {rate:.3g} requests/s (2 rep" in tip]
        assert len(at) >= 3, "attainment, TTFT and TPOT"


def found_at(rate: float, low: float, high: float, saturated: float = 20.0) -> Capacity:
    return Capacity(rate, low, high, saturated, [TriedRate(max(rate, 0.01), [{"slo_attainment": 0.9}] * 2)])


def test_capacities_are_told_apart_only_if_their_ranges_are() -> None:
    found = Capacities(SLO(ttft_s=0.5), 0.99)
    found["a"] = found_at(4.0, 3.9, 4.1)
    found["b"] = found_at(8.0, 7.5, 8.5)
    found["c"] = found_at(7.4, 7.0, 7.6)
    found["d"] = found_at(0.0, 0.0, 0.02)
    assert capacity_answer(found, CONTEXT) == (
        "With llm on gpu, b serves up to 8.00 requests/s such that 99 % of requests have TTFT at most 0.5 s "
        "(surely up to 7.50, surely not from 8.50 on); that is 2.00 times a (4.00) and more than d, which meets the "
        "SLO at no rate; it is not told apart from c (7.40): their ranges overlap."
    )


def test_the_capacity_of_two_gpus_is_also_told_per_gpu() -> None:
    """Seven requests/s of two GPUs are three and a half of each, less than the four of one."""
    found = Capacities(SLO(ttft_s=0.5), 0.99)
    found["one"] = Capacity(4.0, 3.9, 4.1, 20.0, [TriedRate(4.0, [{"gpus": 1}] * 2)])
    assert "per GPU" not in str(list(capacity_lines(found)))
    found["two"] = Capacity(7.0, 6.5, 8.5, 20.0, [TriedRate(7.0, [{"gpus": 2}] * 2)])
    lines = dict(capacity_lines(found))
    assert lines["capacity, requests/s"] == ["4.00", "7.00"]
    assert lines["capacity per GPU, requests/s"] == ["4.00", "3.50"]
    assert lines["  ratio to the first per GPU"] == ["1.00x", "0.88x"]


def test_replications_compare_throughput_per_gpu_where_numbers_differ() -> None:
    done = replicated(one=[100.0, 110.0], two=[150.0, 165.0])
    assert "per GPU" not in str(ratio_sentences(done))
    for name, gpus in (("one", 1), ("two", 2)):
        for each in done.summaries[name]:
            rate = float(each["saturated_output_throughput"] or 0)
            each.update(gpus=gpus, saturated_output_throughput_per_gpu=rate / gpus)
    assert "throughput 1.50, 95 % CI 1.50 to 1.50; throughput per GPU 0.75, 95 % CI" in ratio_sentences(done)[0]


def test_a_capacity_that_is_a_throughput_or_none_says_so() -> None:
    found = Capacities(SLO(ttft_s=0.5), 0.99)
    found["a"] = found_at(20.0, 20.0, math.inf)
    assert capacity_answer(found, CONTEXT).endswith("(surely up to 20.0; more it cannot serve for long).")
    none = Capacities(SLO(ttft_s=0.5), 0.99)
    none["a"] = found_at(0.0, 0.0, 0.02)
    assert "no rate is low enough: under no policy 99 % of requests have TTFT" in capacity_answer(none, CONTEXT)


def test_prediction_intervals_stand_beside_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "DRAWS", 5)
    found = page(tmp_path, "policies=[run_to_completion,orca]", "interval=true")
    known = summary(tmp_path)["interval"]
    for key, form in (("mean_e2el_ms", 1e-3), ("p99_e2el_ms", 1e-3), ("mean_tpot_ms", 1.0)):
        low, high = (end * form for end in known["metrics"]["orca"][key])
        assert f"{low:.2f} to {high:.2f}" in found.words or f"{low:.1f} to {high:.1f}" in found.words
    low, high = known["metrics"]["orca"]["idle_time_fraction"]
    assert f"{low:.1%} to {high:.1%}" in found.words
    assert "value, and its 90% prediction interval" in found.words
    (whiskers,) = (
        lines_of(plot)["whisker"] for plot in found.plots() if len(lines_of(plot).get("whisker", {"x0": []})["x0"])
    )
    assert len(whiskers["x0"]) == 2
    assert "metrics" not in {word.strip('"') for word in found.words.split()}, "not as a fact of the configuration"


def with_interval(orca: tuple[float, float], ratio: tuple[float, float]) -> dict[str, dict[str, Any]]:
    found = policies(True, baton=100, orca=130)
    key = "saturated_output_throughput"
    found["orca"] |= {f"{key}_low": orca[0], f"{key}_high": orca[1]}
    found["orca"] |= {f"{key}_ratio_low": ratio[0], f"{key}_ratio_high": ratio[1]}
    return found


def test_the_answer_of_one_run_heeds_the_errors_of_the_calibration() -> None:
    told = prediction_answer(with_interval((120, 140), (1.2, 1.4)), CONTEXT)
    assert (
        "orca is predicted to be the fastest, with 130 output tokens/s while saturated (90% interval 120 to 140): "
        in told
    )
    assert "1.30 times baton (90% interval 1.20 to 1.40). Of the GPU's busy time under orca" in told
    told = prediction_answer(with_interval((90, 140), (0.9, 1.4)), CONTEXT)
    assert "orca and baton differ by less than the calibration may be off" in told
    first = dict(reversed(with_interval((120, 140), (0.5, 0.8)).items()))
    first["orca"] = {k: v for k, v in first["orca"].items() if "ratio" not in k}
    first["baton"] |= {"saturated_output_throughput_ratio_low": 0.5, "saturated_output_throughput_ratio_high": 0.8}
    assert "1.30 times baton (90% interval 1.25 to 2.00)" in prediction_answer(first, CONTEXT)


def test_dots_and_error_bars_lie_on_one_scale() -> None:
    rows = {"a": Spread(Interval(2.0, 1.0, 3.0), "two", [1.0, 3.0]), "b": Spread(Interval(4.0, 3.5, 5.0), "four")}
    plot = spread_chart("t", rows, "label", band=(0.5, 1.5)).plot
    data = lines_of(plot)
    assert [each.data_source.data["x"] for each in plot.renderers if each.name == "replications"] == [[1.0, 3.0], []]
    assert (data["means"]["x"], data["means"]["tip"]) == ([2.0, 4.0], ["a\ntwo", "b\nfour"])
    assert (data["whisker"]["x0"], data["whisker"]["x1"]) == ([1.0, 3.5], [3.0, 5.0])
    (band,) = (each for each in plot.center if isinstance(each, BoxAnnotation))
    assert (band.left, band.right) == (0.5, 1.5)
    assert spread_chart("t", {}, "label").plot is None
    endless = spread_chart("t", {"a": Spread(Interval(1.0, -math.inf, math.inf), "one", [1.0])}, "unbounded").plot
    assert lines_of(endless)["whisker"]["x0"] == [], "an interval without ends has no bar"


def test_a_curve_is_cut_where_it_leaves_the_picture() -> None:
    places = [Place(0.0, 0.0, "a"), Place(10.0, 10.0, "b"), Place(20.0, 30.0, "c")]
    plot = rate_chart("t", {"p": RateCurve(places, knee=places[1])}, (5.0, 20.0), 10.0).plot
    assert (plot.y_range.start, plot.y_range.end) == (5.0, 20.0)
    assert lines_of(plot)["capacity"] == {"x": [10.0], "y": [10.0]}
    assert {line.location for line in plot.center if isinstance(line, Span)} == {10.0}


def test_what_has_no_report_refuses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("claims", "explain"):
        assert run_here(main, f"task={task}", "report=true", f"hydra.run.dir={tmp_path}") == 2
        assert capsys.readouterr().err == f"error: report=true has no use in task={task}: leave it out\n"


def test_the_numbers_of_neighbouring_panels_do_not_touch() -> None:
    done = Replicated(["a", "b"])
    for name, rate, idle in (("a", 1640.0, 0.01), ("b", 3840.0, 0.2)):
        done.summaries[name] = [
            {"saturated": False, "output_throughput": rate + step, "idle_time_fraction": idle + step / 1000}
            for step in (0, 1, 2)
        ]
    figure = replications(done)
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    left, right = figure.axes[:2]
    texts = [text for text in left.get_xticklabels() if left.viewLim.x0 <= text.get_position()[0] <= left.viewLim.x1]
    assert "3,000" in [text.get_text() for text in texts]
    ends = [text.get_window_extent().x1 for text in texts]
    first = min(text.get_window_extent().x0 for text in right.get_xticklabels() if text.get_position()[0] >= 0)
    assert first - max(ends) > 40, "pixels, of 150 an inch"
