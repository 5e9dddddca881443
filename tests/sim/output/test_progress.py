"""The progress bar: late, cheap, and gone when the run is."""

from io import StringIO

import pytest

from sim.output.progress import Progress, duration


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Wall time, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    return now


def test_a_terminal_gets_a_bar_after_two_seconds_and_keeps_nothing(clock: list[float]) -> None:
    stream = Terminal()
    with Progress("baton", 1000, stream) as progress:
        clock[0] += 1.9
        progress.update(100, 60.0)
        assert stream.getvalue() == ""
        clock[0] += 2.1
        progress.update(400, 7260.0)
        text = stream.getvalue()
        for said in ("baton", "400/1000", "2 h 01 min simulated", "100 requests/s", "6.0 s left"):
            assert said in text
    tail = stream.getvalue()[len(text) :]
    assert "\x1b[?25h" in tail, "the cursor must come back"
    assert tail.rindex("\x1b[2K") > tail.rfind("baton"), "the bar's line must be cleared"


def test_a_pipe_gets_a_line_every_ten_seconds_at_most(clock: list[float]) -> None:
    stream = StringIO()
    with Progress("orca", 1000, stream) as progress:
        for _ in range(25):
            clock[0] += 1
            progress.update(int(clock[0] - 100) * 20, 5.0)
    assert stream.getvalue().splitlines() == [
        "orca: 200 of 1,000 requests, 5.0 s simulated, 20 requests/s, 40 s left",
        "orca: 400 of 1,000 requests, 5.0 s simulated, 20 requests/s, 30 s left",
    ]


def test_a_run_on_the_clock_tells_its_tokens_and_other_work_its_share(clock: list[float]) -> None:
    stream = StringIO()
    served, measured = Progress("baton", 32, stream), Progress("profile", 400, stream, unit="workloads")
    clock[0] += 20
    served.update(8, 20.0, 4000)
    measured.update(100)
    assert stream.getvalue().splitlines() == [
        "baton: 8 of 32 requests, 200 tokens/s, 1 min 00 s left",
        "profile: 100 of 400 workloads, 1 min 00 s left",
    ]


def test_no_request_finished_yet_is_no_division_by_zero(clock: list[float]) -> None:
    stream = StringIO()
    clock[0] -= 11
    progress = Progress("orca", 10, stream)
    clock[0] += 11
    progress.update(0, 0.0)
    assert "unknown left" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7260, "2 h 01 min"),
        (1e6, "11.6 days"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
