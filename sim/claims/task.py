"""`python -m sim task=claims`: tries every claim, prints the verdicts, and leaves figures and every number."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from policies.checks import InputError
from sim.claims.beside import guessed, others_in_words
from sim.claims.collect import collect
from sim.claims.figures import write_figures
from sim.claims.measurement import committed
from sim.claims.options import ClaimsTask
from sim.claims.run import Claims, measured_row, row_of, try_claims
from sim.claims.statements import CORRECT
from sim.claims.verdict import Factor, Finding, Statement, in_words
from sim.config.named import named
from sim.config.settings import Settings
from sim.output.progress import Progress
from sim.output.writing import Draft, make_folder, write_summary, writing
from sim.simulation.notes import memory_notes
from workloads.demand import counted
from workloads.sharegpt import ShareGPT


def study(settings: Settings, folder: Path) -> Callable[[Console], None]:
    """Return what tries the claims; see `run_claims`."""
    return partial(run_claims, settings, folder)


def run_claims(settings: Settings, folder: Path, console: Console) -> None:
    """Try the claims on the hardware, engine and model of the settings.

    Raises:
        InputError: if the input or the folder is one that a person must mend.
        KeyboardInterrupt: on Ctrl-C; nothing is written then.
    """
    if settings.workload != named("workload", "sharegpt", ShareGPT):
        raise InputError("workload= has no use in task=claims, which has workloads of its own: leave it out")
    task = settings.task
    assert isinstance(task, ClaimsTask)
    measured = [*committed(), *collect(task.measured_paths)]
    make_folder(folder)
    with Progress("claims", 1, unit="runs") as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        try:
            claims = try_claims(settings, task.claims.size, settings.seed, show, measured)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted: nothing was saved") from None
    facts = {
        "hardware": settings.hardware.name,
        "engine": settings.engine.name,
        "model": settings.model.name,
        "kv_tokens": settings.kv_tokens,
        "seed": settings.seed,
        "size": task.claims.size,
    }
    found = claims.as_json()
    found["notes"] = [*memory_notes(settings), *found["notes"]]
    write_summary(folder / "claims.json", facts | found)
    _write_runs(folder / "runs.parquet", claims)
    figures = write_figures(folder, claims) if settings.pictures else []
    console.print(Text(f"{settings.model.name} on {settings.hardware.name}, engine {settings.engine.name}"))
    for note in memory_notes(settings):
        console.print(Text(f"- {note}"), soft_wrap=not console.is_terminal)
    for line in lines(claims, listed=bool(task.measured_paths)):
        console.print(line)
    console.print(Text(f"Results: {folder}"), soft_wrap=not console.is_terminal)
    if figures:
        console.print(Text(f"Figures: {', '.join(path.name for path in figures)}"), soft_wrap=not console.is_terminal)


def _write_runs(path: Path, claims: Claims) -> None:
    with writing(path), Draft(path) as part:
        claims.runs().to_parquet(part)


def lines(claims: Claims, listed: bool = True) -> Iterator[Table | Text]:
    """Yield the verdicts as a table, then what a reader must know.

    Args:
        claims: What was found.
        listed: Whether measured results that no statement is of are listed, or only counted.
    """
    table = Table(box=None, padding=(0, 0, 1, 2), pad_edge=False, header_style="bold")
    for name in ("statement", "quantity", "lowest and highest, 95 % CI", "verdict"):
        table.add_column(name, overflow="fold")
    for statement in claims.statements:
        table.add_row(*_cells(statement))
        if statement.measured:
            table.add_row(*_measured_cells(statement.measured))
    table.add_row("correct outputs (abstract)", CORRECT.removeprefix("correct outputs: "), "", "see the tests")
    if claims.correct:
        table.add_row(*_measured_cells(claims.correct))
    yield table
    yield from (Text(f"- {note}") for note in claims.notes)
    others = list(others_in_words(claims.others))
    if others and not listed:
        yield Text(f"- {counted(len(claims.others), 'measured result')} of none of these statements in claims.json")
    elif others:
        yield Text("\nMeasured, and of none of these statements:")
        yield from map(Text, others)


def _measured_cells(measured: Statement) -> tuple[str, str, str, str]:
    """Return the row of what was measured, to stand below that of what is predicted: what settings share, then ends."""
    row, findings = measured_row(measured), measured.findings
    shared = {
        name: value
        for name, value in findings[0].factors.items()
        if all(one.factors[name] == value for one in findings)
    }
    ends = dict.fromkeys(_end(one, shared) for one in (measured.lowest, measured.highest))
    verdict = f"{row['measured_verdict']}{': ' if row['measured_when'] else ''}{row['measured_when']}"
    where = ", ".join(f"{name} {value}" for name, value in shared.items())
    return "  the same, measured", where, "\n".join(ends), verdict


def _end(finding: Finding, shared: Mapping[str, Factor]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in finding.factors.items() if name not in shared)
    return f"{in_words(finding.found)}{guessed(finding.predicted)}{': ' if rest else ''}{rest}"


def _cells(statement: Statement) -> tuple[str, str, str, str]:
    row = row_of(statement)
    verdict = f"{row['verdict']}{': ' if row['when'] else ''}{row['when']}"
    return (
        f"{row['statement']} ({row['source']})",
        f"{row['quantity']}; stated: {row['stated']}",
        f"{row['lowest']}\n{row['highest']}",
        verdict,
    )
