"""report=true: one page that says what the run says, and asks nothing of a network."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import LinearScale, LogScale

from policies.orca import Orca
from sim.__main__ import main
from sim.metrics.occupancy import Occupancy
from sim.reporting.charts import Part, bars, charts, curve_chart, dashes
from sim.reporting.labels import CAUSES
from sim.reporting.page import Page
from sim.reporting.series import CAUSE_STYLES, styles
from sim.simulation.context import Context
from sim.simulation.results import Result
from sim.tasks.comparison import comparison
from sim.tasks.comparison.page import answer
from tests.command_line import run_here, summary

CONTEXT = Context(
    workload="chats", requests=9, arrivals="all at once", declared="max", hardware="gpu", model="llm",
    kv_tokens=1000, max_positions=100,
)  # fmt: skip


class PageParser(HTMLParser):
    """The tags, attributes and text of a page, every tag closed; what its scripts hold is apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._json = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["script"]:
            self.words += data
        elif self.tags[-1][1].get("id") == "plots":
            self._json += data

    def plots(self) -> list[Any]:
        """The plots, as bokeh has them."""
        return [Document.from_json(plot["doc"]).roots[0] for plot in json.loads(self._json)]

    def fetched(self) -> list[str | None]:
        """What a browser would fetch for it."""
        links = ("src", "href", "srcset", "data", "poster")
        return [attributes[link] for _, attributes in self.tags for link in links if link in attributes]


def lines_of(plot: Any) -> dict[str, Any]:
    """The data of the named curves, points or bars of a plot."""
    return {each.name: each.data_source.data for each in plot.renderers if each.name}


def tips_of(plot: Any) -> list[str]:
    """What stands under the pointer."""
    return [tip for each in plot.renderers for tip in each.data_source.data.get("tip", [])]


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
    page, found = PageParser(text), summary(run_folder)
    assert not page.fetched() and "@import" not in text, "it needs no network"
    orca = found["policies"]["orca"]
    assert f"{orca['idle_time_fraction']:.1%}" in page.words
    for note in found["notes"]:
        assert note in page.words
    assert "of one seed" in page.words
    for told in ("orca", "baton", "sharegpt", "h100_sxm_datasheet", "Every option, composed", "num_requests: 60"):
        assert told in page.words
    assert len(page.plots()) == len([tag for tag, _ in page.tags if tag == "figure"]) == 8


def test_the_values_under_the_pointer_are_those_of_the_run(run_folder: Path) -> None:
    plot = PageParser((run_folder / "report.html").read_text()).plots()[2]
    orca = lines_of(plot)["orca"]
    median = summary(run_folder)["policies"]["orca"]["median_ttft_ms"] / 1000
    assert orca["x"][np.searchsorted(orca["y"], 0.5)] == pytest.approx(median, rel=0.05)


def test_the_memory_is_drawn_up_to_its_peak_and_beside_the_capacity(run_folder: Path) -> None:
    plot, found = PageParser((run_folder / "report.html").read_text()).plots()[-1], summary(run_folder)
    curves = lines_of(plot)
    assert set(curves) == {"orca", "baton"}
    for name, curve in curves.items():
        assert max(curve["y"]) == pytest.approx(found["policies"][name]["kv_peak_tokens"], rel=1e-3)
    assert f"capacity: {found['kv_tokens']:,}" in [item.label.value for item in plot.legend[0].items]
    assert plot.y_range.end > found["kv_tokens"]


def test_a_slow_policy_leaves_the_others_readable() -> None:
    """A decade has the same width everywhere; of equal curves the one that is covered is wider."""
    quick, slow = (np.array([0.1, 1.0]), np.array([0.5, 1.0])), (np.array([10.0, 1000.0]), np.array([0.5, 1.0]))
    assert isinstance(curve_chart("t", {"quick": quick, "slow": slow}, "", "s", by="y").plot.x_scale, LogScale)
    near = curve_chart("t", {"quick": quick, "slow": quick}, "", "s", by="y").plot
    assert isinstance(near.x_scale, LinearScale)
    first, second = near.renderers
    assert first.glyph.line_width > second.glyph.line_width


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    evil = '</script><script>"&'
    curve = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    drawn = [
        bars(evil, {evil: [Part(evil, 1.0, "#000000")]}, evil),
        curve_chart(evil, {evil: curve}, evil, evil, by="y"),
    ]
    made = Page(title=evil, answer=evil, setting=(), tables=(), validity=(), charts=drawn)
    page = PageParser(made.write(tmp_path / "report.html", {}).read_text())
    assert evil in page.words
    assert list(lines_of(page.plots()[1])) == [evil]


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
    assert first.title == f"Output tokens/s, {window}"
    assert tips_of(first.plot)[1] == f"baton\n{window}: {size} tokens/s\n90% interval: {size - 10} to {size + 10}"


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


def test_a_page_without_any_data_is_still_a_page(tmp_path: Path) -> None:
    nothing = [
        curve_chart("t", {"a": (np.empty(0), np.empty(0))}, "", "", by="x"),
        bars("t", {"a": [Part("p", 0.0, "#000")]}, ""),
    ]
    page = Page(title="t", answer="a", setting=(), tables=(), validity=(), charts=nothing)
    assert "no data" in PageParser(page.write(tmp_path / "report.html", {}).read_text()).words


def test_every_cause_of_idle_time_has_its_hatching(run_folder: Path) -> None:
    """As in the pictures; the two that are not hatched are the darkest."""
    idle = PageParser((run_folder / "report.html").read_text()).plots()[1]
    looks = {name: (colour, hatch[:1]) for name, (colour, hatch) in zip(CAUSES, CAUSE_STYLES, strict=True)}
    used = {item.label.value: item.renderers[0].glyph for item in idle.legend[0].items}
    assert len(used) >= 2
    for name, glyph in used.items():
        colour, hatch = looks[name.replace(" ", "_").lower()]
        assert (glyph.fill_color.value, getattr(glyph.hatch_pattern, "value", "")) == (colour, hatch)


def test_every_line_of_the_pictures_has_its_dashes() -> None:
    looks = styles([str(number) for number in range(8)]).values()
    assert len({str(dashes(look["linestyle"])) for look in looks}) == 8


def test_without_report_no_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "write_plots", lambda folder, results: [])
    assert (
        run_here(
            main, "+policy=orca", "workload.num_requests=3", "hardware=h100_sxm_datasheet", f"hydra.run.dir={tmp_path}"
        )
        == 0
    )
    assert not (tmp_path / "report.html").exists()
