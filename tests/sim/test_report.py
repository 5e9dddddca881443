"""report=true: one page that says what the run says, and asks nothing of a network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import comparison
from sim.__main__ import main
from sim.axes import styles
from sim.context import Context
from sim.report import answer
from sim.report_charts import bars, curve_chart, dashes, tick_label, ticks
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
    assert not re.search(r"https?:|src=|@import|url\(", text), "nothing is fetched"
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
        "With llm on gpu, baton is predicted to be the fastest, 4.00 times orca: 400 output tokens/s while saturated; "
        "25.0% of its busy GPU time is idle."
    )
    assert "differ by less than 2%, too little to tell from one run" in answer(policies(True, a=100, b=101), CONTEXT)
    assert answer(policies(True, a=100), CONTEXT).startswith("With llm on gpu, a is predicted to give 100 output tok")


def test_the_answer_says_what_a_ratio_is_per_gpu() -> None:
    """Four times the tokens on twice the GPUs are twice as many of each."""
    both = policies(True, orca=100, baton=400)
    both["orca"]["gpus"], both["baton"]["gpus"] = 1, 2
    assert "4.00 times orca (2 against 1 GPU: 2.00 times it per GPU): 400" in answer(both, CONTEXT)


def test_below_saturation_latency_decides() -> None:
    assert "orca is predicted to be the quickest, baton takes 4.00 times as long: 1 s" in answer(
        policies(False, orca=1, baton=4), CONTEXT
    )
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
