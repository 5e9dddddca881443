"""The laws of a trace: valid JSON, no overlaps on a track, every request's life without gaps."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.output.timeline import GPU, STALL, Timeline
from tests.sim.small_run import POLICIES, Run, make_requests, run

Event = dict[str, Any]


def trace(done: Run, path: Path, **limits: int) -> tuple[list[Event], list[str]]:
    with Timeline(path, **limits) as timeline:
        for start in range(0, len(done.log), 37):
            timeline(done.log[start : start + 37])
        timeline.close(done.requests, done.request_log)
    return json.loads(path.read_text())["traceEvents"], timeline.notes


def slices(events: list[Event], track: int) -> list[Event]:
    return [event for event in events if event["ph"] == "X" and event["tid"] == track]


def phases(events: list[Event]) -> dict[int, list[tuple[str, float, float]]]:
    """(name, start, end) of the slices of each request, the outer one last; begins and ends must nest."""
    opened: dict[int, list[Event]] = defaultdict(list)
    lives: dict[int, list[tuple[str, float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "b":
            opened[event["id"]].append(event)
        elif event["ph"] == "e":
            begin = opened[event["id"]].pop()
            assert begin["name"] == event["name"]
            lives[event["id"]].append((event["name"], begin["ts"], event["ts"]))
    assert not any(opened.values())
    return lives


@pytest.mark.parametrize("policy", POLICIES)
def test_gpu_tracks_show_the_log_without_overlap(tmp_path: Path, policy: str) -> None:
    done = run(POLICIES[policy], make_requests())
    events, notes = trace(done, tmp_path / "timeline.json")
    assert notes == []
    log, live = done.log, done.log["live_rows"]
    waits = (log["lane"] == 0) & (log["rows"] + log["held_rows"] == 0) & (live > 0)
    for track, shown in ((0, log["lane"] == 0), (1, log["lane"] == 1), (STALL, waits)):
        found, expected = slices(events, track), log[shown]
        start, length = (np.array([event[key] for event in found]) for key in ("ts", "dur"))
        np.testing.assert_allclose(start, expected["start_s"] * 1e6, atol=2e-3)
        np.testing.assert_allclose(length, expected["duration_s"] * 1e6, atol=2e-3)
        ticks = np.rint(np.stack([start, start + length]) * 1000).astype(np.int64)
        assert (ticks[0, 1:] >= ticks[1, :-1]).all()
    assert sum(event["args"]["rows"] for event in slices(events, STALL)) == live[waits].sum()
    mixed = (log["rows"] > 0) & (log["prefill_rows"] > 0)
    assert sum(event["name"] == "mixed" for event in events) == mixed.sum()
    assert (policy == "baton") <= bool(waits.any())
    assert (policy == "orca") <= bool(mixed.any())


def test_rounding_makes_no_neighbours_overlap(tmp_path: Path) -> None:
    done = run(POLICIES["orca"], make_requests())
    done.log["start_s"], done.log["duration_s"] = np.arange(len(done.log)) * 1e-3 + 4e-10, 1e-3 + 2e-10
    events, _ = trace(done, tmp_path / "timeline.json")
    shown = slices(events, 0)
    assert len(shown) == len(done.log)
    ticks = [(round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000)) for event in shown]
    assert all(end <= start for (_, end), (start, _) in pairwise(ticks))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_finished_request_has_its_life_without_gaps(tmp_path: Path, policy: str) -> None:
    done = run(POLICIES[policy], make_requests())
    events, _ = trace(done, tmp_path / "timeline.json")
    lives = phases(events)
    decodes = {event["ts"] for event in slices(events, 0) if event["name"] in ("decode", "mixed")}
    assert sorted(lives) == list(range(len(done.requests)))
    for request, (*inner, outer) in lives.items():
        expected = [done.request_log.arrival_s[request] * 1e6, done.request_log.finish_s[request] * 1e6]
        np.testing.assert_allclose(outer[1:], expected, atol=2e-3)
        bounds = [begin for _, begin, _ in inner] + [outer[2]]
        assert bounds[0] == outer[1]
        assert [end for _, _, end in inner] == bounds[1:]
        named = {name: begin for name, begin, _ in inner}
        assert "prefill" in named
        assert ("decode" in named) == (done.requests.output_tokens[request] > 1)
        assert named.get("decode", next(iter(decodes))) in decodes


def test_counters_follow_the_batch_and_end_at_zero(tmp_path: Path) -> None:
    done = run(POLICIES["orca"], make_requests(rate=2.0))
    events, _ = trace(done, tmp_path / "timeline.json")
    counters = [event for event in events if event["ph"] == "C"]
    assert {event["pid"] for event in counters} == {GPU}
    starts = {event["ts"]: event["args"] for event in counters}
    for record, shown in zip(done.log, slices(events, 0), strict=True):
        assert starts[shown["ts"]]["live rows"] == record["live_rows"]
        assert starts[shown["ts"]]["KV tokens"] == record["kv_tokens"]
    gaps = np.flatnonzero(np.diff(done.log["start_s"]) > done.log["duration_s"][:-1] + 1e-6)
    assert len(gaps) > 10
    assert sum(event["args"] == {"live rows": 0} for event in counters) >= len(gaps) + 1
    assert counters[-1]["args"] == {"live rows": 0}


def test_a_long_run_is_cut_with_a_note(tmp_path: Path) -> None:
    done = run(POLICIES["baton"], make_requests())
    events, notes = trace(done, tmp_path / "timeline.json", max_records=60, max_requests=20)
    assert len(slices(events, 0)) == 60
    horizon = max(event["ts"] + event["dur"] for event in slices(events, 0))
    lives = phases(events)
    assert 1 < len(lives) <= 20
    assert max(end for life in lives.values() for _, _, end in life) <= horizon + 2e-3
    assert [note.split(",")[0] for note in notes] == [
        f"timeline.json shows the first 60 of {len(done.log)} iteration records",
        "timeline.json shows the first 20 of 120 requests",
    ]


def test_a_rejected_request_is_an_instant(tmp_path: Path) -> None:
    requests = make_requests(count=10)
    requests.prompt_tokens[4] = 5000
    done = run(POLICIES["orca"], requests, kv_tokens=2000)
    events, _ = trace(done, tmp_path / "timeline.json")
    assert [event["id"] for event in events if event["ph"] == "n"] == [4]
    assert sorted(phases(events)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
