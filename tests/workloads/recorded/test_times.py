"""Arrivals have units: what the format, a column's name, their size or a person says; what cannot be is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.checks import InputError
from workloads import Azure, BurstGPT, Mooncake, QwenBailian, Requests, Trace
from workloads.recorded.traces import RecordedWorkload

NOW = 1_780_000_000
"""Seconds since 1970."""


def own(folder: Path, *arrivals: object, header: str = "arrival_s", **options: Any) -> Requests:
    """Build the requests of a trace with these arrivals."""
    path = folder / "t.csv"
    path.write_text(f"{header},prompt_tokens,output_tokens\n" + "".join(f"{time},5,1\n" for time in arrivals))
    return Trace(path=str(path), **options).build(0)


def recorded(kind: type[RecordedWorkload], folder: Path, *times: object, **options: Any) -> Requests:
    """Build the requests of a recording in a published format with these times."""
    names = {
        Azure: ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        BurstGPT: ("Timestamp", "Request tokens", "Response tokens"),
    }.get(kind, ("timestamp", "input_length", "output_length"))
    path = folder / "t.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(names, (time, 7, 2), strict=True))) for time in times))
    return kind(path=str(path), **options).build(0)


@pytest.mark.parametrize(("unit", "per"), [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)])
class TestSince1970:
    """Times since 1970 show their unit by their size, in every format with numbers."""

    def test_in_a_trace_of_ones_own(self, tmp_path: Path, unit: str, per: int) -> None:
        requests = own(tmp_path, NOW * per, (NOW * 4 + 1) * per // 4, (NOW + 2) * per)
        np.testing.assert_allclose(requests.arrival_s, [0, 0.25 if per > 1 else 0, 2], atol=1e-6)
        assert any("since 1970: the first is 2026-05-28" in note for note in requests.notes) == (unit != "s")

    @pytest.mark.parametrize("kind", [Mooncake, BurstGPT, QwenBailian])
    def test_in_a_published_format(self, tmp_path: Path, unit: str, per: int, kind: type[RecordedWorkload]) -> None:
        requests = recorded(kind, tmp_path, NOW * per, (NOW + 3) * per)
        np.testing.assert_allclose(requests.arrival_s, [0, 3])

    def test_beside_other_times_it_is_refused(self, tmp_path: Path, unit: str, per: int) -> None:
        with pytest.raises(InputError, match=r"line \d, column arrival_s: is '\d+', not a?.*(since 1970|clock)"):
            own(tmp_path, NOW * per, (NOW + 1) * per, 17, (NOW + 2) * per)


class TestUnits:
    """A person's word goes before a format's, and a name's before seconds."""

    @pytest.mark.parametrize(("unit", "last"), [("s", 3000), ("ms", 3), ("us", 0.003), ("ns", 3e-6)])
    def test_what_is_said_holds(self, tmp_path: Path, unit: str, last: float) -> None:
        assert own(tmp_path, 0, 3000, time_unit=unit).arrival_s[-1] == pytest.approx(last)

    @pytest.mark.parametrize(("name", "last"), [("sent_ms", 3), ("time (us)", 0.003), ("t_ns", 3e-6), ("at", 3000)])
    def test_a_columns_name_may_say_it(self, tmp_path: Path, name: str, last: float) -> None:
        assert own(tmp_path, 0, 3000, header=name, columns={"arrival_s": name}).arrival_s[-1] == pytest.approx(last)

    def test_milliseconds_are_whole_unless_a_person_says_otherwise(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"line 2, column timestamp: is 8\.5, not a whole number of milliseconds"):
            recorded(Mooncake, tmp_path, 3, 8.5)
        assert recorded(Mooncake, tmp_path, 3, 8.5, time_unit="s").arrival_s[-1] == 5.5
        assert recorded(Mooncake, tmp_path, 3, 8.5, time_unit="ms").arrival_s[-1] == pytest.approx(0.0055)

    def test_dates_are_read_where_numbers_are(self, tmp_path: Path) -> None:
        requests = own(tmp_path, "2026-02-01T08:00:00Z", "2026-02-01T08:00:01.25Z")
        assert requests.arrival_s.tolist() == [0, 1.25]
        with pytest.raises(InputError, match=r"line 3, column arrival_s: is '17', not a date and time"):
            own(tmp_path, "2026-02-01T08:00:00Z", 17)

    def test_a_unit_is_one_of_four(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"workload\.time_unit is 'min': choose one of s, ms, us, ns"):
            own(tmp_path, 0, time_unit="min")


@pytest.mark.parametrize("times", [[0, 5e12], [0, 2e9], [5e9], [0, 1e16], [NOW, 0]])
def test_times_that_cannot_be_seconds_are_refused_with_the_row(tmp_path: Path, times: list[float]) -> None:
    with pytest.raises(InputError, match=r"t\.csv, line \d, column arrival_s: is .*workload\.time_unit"):
        own(tmp_path, *times)


@pytest.mark.parametrize("kind", [Mooncake, BurstGPT, QwenBailian])
@pytest.mark.parametrize("time", [float("inf"), float("nan"), -1, None, "noon", True, [3]])
def test_what_is_no_time_is_refused_with_the_row(tmp_path: Path, kind: type[RecordedWorkload], time: object) -> None:
    with pytest.raises(InputError, match=r"t\.jsonl, line 2, column [tT]imestamp: is "):
        recorded(kind, tmp_path, 1, time, 3)


class TestNotes:
    """Span and rate of every trace are said, and what is strange in them."""

    def test_span_and_rate(self, tmp_path: Path) -> None:
        assert own(tmp_path, 0, 30, 240).notes == ("recorded: 3 requests in 4 min, 0.00833 requests/s",)

    def test_of_the_part_that_is_used(self, tmp_path: Path) -> None:
        requests = own(tmp_path, 0, 900, 901, 903, 5000, first_request=1, num_requests=3)
        assert requests.arrival_s.tolist() == [0, 1, 3]
        assert requests.notes[-1] == "recorded: 3 requests in 3 s, 0.667 requests/s"
        assert "the first 1 request left out" in requests.notes

    @pytest.mark.parametrize("last", [0.0001, 9e5])
    def test_a_strange_rate(self, tmp_path: Path, last: float) -> None:
        said = own(tmp_path, 0, last / 2, last).notes[-1]
        assert "strange" in said and "workload.time_unit" in said

    def test_all_at_once(self, tmp_path: Path) -> None:
        assert own(tmp_path, 4, 4).notes[-1] == "recorded: 2 requests, all at one time"


class TestClock:
    """One rule for every recording."""

    @pytest.mark.parametrize("kind", [BurstGPT, QwenBailian])
    def test_whole_seconds(self, tmp_path: Path, kind: type[RecordedWorkload]) -> None:
        requests = recorded(kind, tmp_path, 5, 5, 6, 9, 9, 9, 9)
        assert requests.arrival_s.tolist() == [0, 0.5, 1, 4, 4.25, 4.5, 4.75]
        assert "arrivals recorded in ticks of 1 s spread evenly within each tick" in requests.notes

    def test_dates_of_whole_seconds(self, tmp_path: Path) -> None:
        dates = [f"2026-03-04 05:06:{second:02}" for second in (7, 7, 8, 8, 20)]
        assert recorded(Azure, tmp_path, *dates).arrival_s.tolist() == [0, 0.5, 1, 1.5, 13]

    def test_raw_times_can_be_had(self, tmp_path: Path) -> None:
        requests = recorded(Mooncake, tmp_path, 0, 0, 3000, 3000, 6000, spread_ticks=False)
        assert requests.arrival_s.tolist() == [0, 0, 3, 3, 6]
        assert "4 requests share their arrival time with another (kept)" in requests.notes

    @pytest.mark.parametrize("value", [0, "false", None])
    def test_the_switch_is_true_or_false(self, tmp_path: Path, value: Any) -> None:
        with pytest.raises(InputError, match=r"workload\.spread_ticks=.*: give true or false"):
            own(tmp_path, 0, spread_ticks=value)


class TestNotNeeded:
    """What is not needed is not demanded."""

    OTHERS: tuple[dict[str, Any], ...] = (
        {"arrival": "poisson", "rate": 2.0},
        {"arrival": "gamma", "rate": 2.0, "cv": 3.0},
        {"arrival": "all_at_once"},
        {"arrival": "closed_loop", "concurrency": 2},
    )

    @pytest.mark.parametrize("options", OTHERS)
    def test_no_arrivals_if_others_are_asked_for(self, tmp_path: Path, options: dict[str, Any]) -> None:
        path = tmp_path / "t.csv"
        path.write_text("prompt_tokens,output_tokens\n8,4\n9,5\n")
        assert Trace(path=str(path), **options).build(0).prompt_tokens.tolist() == [8, 9]
        with pytest.raises(InputError, match="no column arrival_s: add or rename it"):
            Trace(path=str(path)).build(0)

    def test_nor_good_ones(self, tmp_path: Path) -> None:
        requests = own(tmp_path, 3, "", -1, arrival="poisson", rate=1.0)
        assert len(requests) == 3
        assert any("cannot be read, and are not needed" in note for note in requests.notes)

    def test_nor_in_a_published_format(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text("ContextTokens,GeneratedTokens\n8,4\n9,5\n")
        assert len(Azure(path=str(path), arrival="all_at_once").build(0)) == 2


@pytest.mark.parametrize(("first", "said"), [(3, "is 3, but there are 3 requests"), (-1, "is -1"), (1.5, "is 1.5")])
def test_a_first_request_is_one_of_them(tmp_path: Path, first: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"workload\.first_request {said}"):
        own(tmp_path, 0, 1, 2, first_request=first)


def test_a_first_request_without_arrivals(tmp_path: Path) -> None:
    requests = own(tmp_path, 0, 1, 2, first_request=1, arrival="constant", rate=1.0)
    assert requests.arrival_s.tolist() == [0, 1]
