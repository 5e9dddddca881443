"""report=true: one page that says what the run says, and asks nothing of a network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.orca import Orca
from sim.__main__ import main
from sim.metrics.occupancy import Occupancy
from sim.reporting.charts import Scale, bars, charts, curve_chart, dashes, tick_label, ticks
from sim.reporting.labels import CAUSES
from sim.reporting.series import styles
from sim.simulation.context import Context
from sim.simulation.results import Result
from sim.tasks.comparison import comparison
from sim.tasks.comparison.page import answer
from tests.command_line import run_here, summary

CONTEXT = Context(
    workload="chats", requests=9, arrivals="all at once", declared="max", hardware="gpu", model="llm",
    kv_tokens=1000, max_positions=100,
)  # fmt: skip


class Page(HTMLParser):
    """The tags, attributes and text of a page, every tag closed."""

    VOID = ("meta", "br", "line", "rect", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def charts(self) -> list[dict[str, Any]]:
        return [json.loads(said["data-chart"] or "") for _, said in self.found if "data-chart" in said]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    options = (
        "policies=[orca,baton]",
        "workload.num_requests=60",
        "hardware=h100_sxm_datasheet",
        "pictures=false",
        "report=true",
    )
    assert run_here(main, *options, f"hydra.run.dir={folder}") == 0
    return folder


def test_the_page_shows_what_the_summary_says(run_folder: Path) -> None:
    text = (run_folder / "report.html").read_text()
    page, found = Page(text), summary(run_folder)
    assert not re.search(r"https?:|src=|@import|url\((?!#)", text), "nothing is fetched"
    orca = found["policies"]["orca"]
    assert f"{orca['idle_time_fraction']:.1%}" in page.words
    for note in found["notes"]:
        assert note in page.words
    assert "of one seed" in page.words
    for told in ("orca", "baton", "sharegpt", "h100_sxm_datasheet", "Every option, composed", "num_requests: 60"):
        assert told in page.words
    assert len(page.charts()) == 6
    assert len([tag for tag, _ in page.found if tag == "figure"]) == 8


def test_the_values_under_the_pointer_are_those_of_the_run(run_folder: Path) -> None:
    chart = next(chart for chart in Page((run_folder / "report.html").read_text()).charts() if chart["by"] == "y")
    median = summary(run_folder)["policies"]["orca"]["median_ttft_ms"] / 1000
    (orca,) = (one for one in chart["series"] if one["name"] == "orca")
    assert orca["x"][np.searchsorted(orca["y"], 0.5)] == pytest.approx(median, rel=0.05)


def test_the_memory_is_drawn_up_to_its_peak_and_beside_the_capacity(run_folder: Path) -> None:
    page, found = Page((run_folder / "report.html").read_text()), summary(run_folder)
    assert len(page.charts()[-1]["series"]) == 2
    for one in page.charts()[-1]["series"]:
        assert max(one["y"]) == pytest.approx(found["policies"][one["name"]]["kv_peak_tokens"], rel=1e-3)
    assert f"capacity: {found['kv_tokens']:,}" in page.words


def test_a_slow_policy_leaves_the_others_readable() -> None:
    """A decade has the same width everywhere, from the fastest answer of the fastest to the slowest of the slowest."""
    quick, slow = (np.array([0.1, 1.0]), np.array([0.5, 1.0])), (np.array([10.0, 1000.0]), np.array([0.5, 1.0]))
    page = Page(curve_chart("t", {"quick": quick, "slow": slow}, "", "", "s", by="y"))
    paths = [said for tag, said in page.found if tag == "path"]
    numbers = [[float(each) for each in re.findall(r"[\d.]+", path["d"] or "")] for path in paths]
    starts, ends = [found[0] for found in numbers], [found[2] for found in numbers]
    decade = ends[0] - starts[0]
    assert [starts[1] - starts[0], ends[1] - starts[1]] == pytest.approx([2 * decade, 2 * decade], abs=0.3)
    assert list(Scale(0.1, 1000, log=True).ticks()) == pytest.approx([0.1, 1, 10, 100, 1000])
    near = Page(curve_chart("t", {"quick": quick, "slow": quick}, "", "", "s", by="y"))
    first, second = [said for tag, said in near.found if tag == "path"]
    assert first["d"] == second["d"]
    assert float(first["stroke-width"] or 0) > float(second["stroke-width"] or 0), "what is covered is wider"


def test_names_are_text_not_markup() -> None:
    evil = '<script>"&'
    page = Page(bars(evil, {evil: [(evil, 1.0, "#000000")]}, evil, named=True))
    assert evil in page.words
    curve = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    page = Page(curve_chart(evil, {evil: curve}, evil, evil, evil, by="y"))
    assert page.charts()[0]["series"][0]["name"] == evil


def policies(saturated: bool, **values: float) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "saturated": saturated, "saturated_output_throughput": value, "output_throughput": value,
            "mean_e2el_ms": 1000 * value, "idle_time_fraction": 0.25,
        }
        for name, value in values.items()
    }  # fmt: skip


def test_the_answer_names_the_fastest_and_by_how_much() -> None:
    assert answer(policies(True, orca=100, baton=400), CONTEXT) == (
        "With llm on gpu, baton is predicted to be the fastest, with 400 output tokens/s while saturated: 4.00 times "
        "orca. Of the GPU's busy time under baton, 25.0% is idle."
    )
    assert "differ by less than 2%, too little to tell from one run" in answer(policies(True, a=100, b=101), CONTEXT)
    assert answer(policies(True, a=100), CONTEXT).startswith("With llm on gpu, a is predicted to give 100 output tok")


@pytest.mark.parametrize(("saturated", "window", "size"), [(True, "while saturated", 400), (False, "whole run", 300)])
def test_the_first_chart_shows_the_figures_of_the_answer_and_of_the_table(
    saturated: bool, window: str, size: float
) -> None:
    found = policies(saturated, orca=100, baton=400)
    found["baton"] |= {"output_throughput": 300, "output_throughput_low": 290, "output_throughput_high": 310}
    found["baton"] |= {"saturated_output_throughput_low": 390, "saturated_output_throughput_high": 410}
    empty = Occupancy().series()
    outcomes = {
        name: Result(policy=Orca(max_batch=1), summary=each, columns={}, occupancy=empty)
        for name, each in found.items()
    }
    first = charts(outcomes, kv_tokens=1000)[0]
    assert f"Output tokens/s, {window}" in first
    assert f"baton\n{window}: {size} tokens/s\n90% interval: {size - 10} to {size + 10}" in first


def test_the_answer_says_what_a_ratio_is_per_gpu() -> None:
    """Four times the tokens on twice the GPUs are twice as many of each."""
    both = policies(True, orca=100, baton=400)
    both["orca"]["gpus"], both["baton"]["gpus"] = 1, 2
    assert "4.00 times orca (2 against 1 GPU: 2.00 times it per GPU)" in answer(both, CONTEXT)


def test_below_saturation_latency_decides() -> None:
    told = answer(policies(False, orca=1, slow=16, baton=4), CONTEXT)
    assert told.endswith(
        "orca is predicted to be the quickest, with 1 s from arrival to the last token on average: baton takes 4.00 "
        "times as long and slow takes 16.00 times as long. Of the GPU's busy time under orca, 25.0% is idle."
    ), "the figures of the best stand beside its name, not after another's"
    assert answer(policies(False, orca=0), CONTEXT).endswith("no request was finished.")


def test_a_page_without_any_data_is_still_a_page() -> None:
    assert "no data" in curve_chart("t", {"a": (np.empty(0), np.empty(0))}, "", "", "", by="x")
    Page(bars("t", {"a": [("p", 0.0, "#000")]}, "", named=True))


@pytest.mark.parametrize("end", [0.003, 0.99, 1.0, 1.01, 5.6, 37, 99_999])
def test_ticks_are_few_and_round(end: float) -> None:
    found = list(ticks(end))
    assert found[0] == 0
    assert 2 <= len(found) <= 6
    assert found[-1] <= end * (1 + 1e-9)


def test_labels_of_an_axis_are_short() -> None:
    assert [tick_label(number) for number in (0, 0.5, 2000, 20_000, 1_500_000)] == ["0", "0.5", "2,000", "20k", "1.5M"]


def test_every_cause_of_idle_time_has_its_hatching(run_folder: Path) -> None:
    """As in the pictures; the two that are not hatched are the darkest."""
    page = Page((run_folder / "report.html").read_text())
    fills = {said["id"] for tag, said in page.found if tag == "pattern"}
    filled = [said.get("fill") or "" for tag, said in page.found if tag == "rect"]
    used = {fill[5:-1] for fill in filled if fill.startswith("url(#")}
    assert len(used) >= 2
    assert used <= fills == set(CAUSES)
    inside = re.findall(r'<pattern[^>]*>.*?<path d="(.*?)"', (run_folder / "report.html").read_text())
    assert len(set(inside)) == len(inside) - 1 == 6


def test_every_line_of_the_pictures_has_its_dashes() -> None:
    looks = styles([str(number) for number in range(8)]).values()
    assert len({dashes(look["linestyle"]) for look in looks}) == 8


def test_without_report_no_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    assert (
        run_here(
            main, "+policy=orca", "workload.num_requests=3", "hardware=h100_sxm_datasheet", f"hydra.run.dir={tmp_path}"
        )
        == 0
    )
    assert not (tmp_path / "report.html").exists()
