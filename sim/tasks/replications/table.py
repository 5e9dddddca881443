"""The table of a repeated comparison: each metric's mean across replications and its interval, and paired ratios."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from sim.metrics.interval import CONFIDENCE, shown
from sim.reporting.table import heading, say
from sim.simulation.context import Context
from sim.tasks.replications.results import Replicated, ratio_sentences

_PER_GPU = "output tokens/s per GPU"
_LINES = (
    ("requests/s", "{window}request_throughput", 1.0),
    ("output tokens/s", "{window}output_throughput", 1.0),
    (_PER_GPU, "{window}output_throughput_per_gpu", 1.0),
    ("goodput, requests/s", "request_goodput", 1.0),
    ("share that met the SLO, %", "slo_attainment", 100.0),
    ("TTFT mean, s", "mean_ttft_ms", 1e-3),
    ("TTFT p99, s", "p99_ttft_ms", 1e-3),
    ("TPOT mean, ms", "mean_tpot_ms", 1.0),
    ("TPOT p99, ms", "p99_tpot_ms", 1.0),
    ("ITL p99, ms", "p99_itl_ms", 1.0),
    ("E2E mean, s", "mean_e2el_ms", 1e-3),
    ("E2E p99, s", "p99_e2el_ms", 1e-3),
    ("idle share of GPU busy time, %", "idle_time_fraction", 100.0),
    ("  without the stall, %", "wasted_time_fraction", 100.0),
    ("GPU busy, %", "gpu_busy_fraction", 100.0),
    ("preemptions", "preemptions", 1.0),
)


def print_replications(console: Console, done: Replicated, context: Context, pictures: Sequence[str]) -> None:
    """Print a column per policy, then every pair's ratios in words, the notes and where the files are.

    Args:
        console: Where to.
        done: What was found.
        context: What it was found on, and where it is.
        pictures: Names of the pictures there.
    """
    for text in replication_heading(done, context):
        say(console, text)
    console.print(_table(done))
    console.print()
    for text in ratio_sentences(done):
        say(console, text)
    for note in done.notes:
        say(console, f"- {note}")
    say(console, f"Results: {context.folder}")
    if pictures:
        say(console, f"Pictures: {', '.join(pictures)}")


def replication_heading(done: Replicated, context: Context) -> list[str]:
    """Return what was run on what, as plain sentences."""
    last = context.seed + done.count - 1
    return [
        f"{context.workload}: {done.count} replications of {context.requests:,} requests, {context.arrivals}, "
        f"seeds {context.seed} to {last}, the same for every policy",
        *list(heading(context))[1:],
    ]


def _table(done: Replicated) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, header_style="bold")
    table.add_column(f"mean ± {CONFIDENCE:.0%} half width".replace("%", " %"), no_wrap=True)
    for name in done.summaries:
        table.add_column(name, justify="right", overflow="fold", max_width=28)
    for label, cells in replication_lines(done):
        table.add_row(label, *cells)
    return table


def replication_lines(done: Replicated) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows worth showing: a label, and of every policy the mean and its half width."""
    for label, key, scale in _LINES:
        if label == _PER_GPU and not done.gpus_differ:
            continue
        found = [done.interval(name, key.format(window=done.window)) for name in done.summaries]
        if any(each is not None and each.estimate for each in found):
            yield label, [shown(each, scale) for each in found]
