"""What was wanted and what was measured, side by side; nothing is said of what was not measured but why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.gpu.bench import median
from benchmarks.gpu.decode_steps import TARGETED
from benchmarks.gpu.throughput import BATONS, CONTINUOUS, STATIC

Found = Mapping[str, Any]
"""What a section has found."""

STEP, CONTINUOUS_RATIO, STATIC_RATIO, CLAIMED = 1.35, 2.0, 3.0, 1.75
ATTENTION = 0.01
"""Relative error of attention in bf16, whose values have 8 bits: some 0.3 % of rounding each way."""

ERRORS = {"throughput": 0.05, "mean TTFT": 0.08, "mean E2E": 0.08, "ratios of throughput": 0.03}

NO_TIME, NOT_REACHED = "no time was left", "not reached"
"""Why something was not measured that did not fail."""


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        what: What is measured.
        target: What was wanted, in words.
        measured: What was found, in words.
        met: Whether that is enough; None: nobody asked, or it was not measured.
    """

    what: str
    target: str
    measured: str
    met: bool | None = None


def lines(found: Mapping[str, Found]) -> list[Line]:
    """Return the table, from what the sections have found, by name."""
    sections = {
        "decode_steps": (_steps, "decode step"),
        "exactness": (_exactness, "tokens identical, eager and graphs"),
        "throughput": (_throughput, "throughput of BATON"),
        "ratios": (_ratios, "BATON against Orca"),
        "insertion": (_insertion, "insertion"),
        "validation": (_validation, "error of the simulator"),
    }
    table: list[Line] = []
    for name, (read, what) in sections.items():
        section = found.get(name, {})
        made = [*read(section)] if section.get("rows") else []
        table += made
        if not made:
            table.append(
                Line(what, "", f"not measured: {section.get('reason', NO_TIME if name in found else NOT_REACHED)}")
            )
        elif "reason" in section:
            table.append(Line(f"{what}, the rest", "", f"not measured: {section['reason']}"))
    return table


def shown(table: Iterable[Line], judged: bool) -> Table:
    """Return the lines for the terminal; without a GPU nothing is judged."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("measured was", "target", "found", *(["met"] if judged else [])):
        made.add_column(heading)
    for line in table:
        met = {True: "yes", False: "NO", None: "-"}[line.met]
        made.add_row(line.what, line.target, line.measured, *([met] if judged else []))
    return made


def _steps(found: Found) -> Iterator[Line]:
    rows = [row for row in found["rows"] if (row["policy"], row["execution"]) == (TARGETED[0], TARGETED[1].name)]
    for model, lengths in dict.fromkeys((row["model"], row["lengths"]) for row in rows):
        own = [row for row in rows if (row["model"], row["lengths"]) == (model, lengths)]
        worst = max(own, key=lambda row: row["ratio"])
        batches = ", ".join(str(batch) for batch in sorted(row["batch"] for row in own))
        cell = f"{model}, {TARGETED[0]} {TARGETED[1].name}, {lengths}, "
        missing = [left for left in found.get("left_out", ()) if left.startswith(cell)]
        yield _partly(
            Line(
                f"decode step over its floor, {model}, {lengths}",
                f"at most {STEP}",
                f"{worst['ratio']:.2f} at batch {worst['batch']}, the worst of batches {batches}",
                worst["ratio"] <= STEP,
            ),
            missing,
        )


def _exactness(found: Found) -> Iterator[Line]:
    rows = [row for row in found["rows"] if row["execution"] == "graphs"]
    if (error := found.get("attention_error")) is not None:
        yield Line("attention in bf16 against float64", f"within {ATTENTION:.0%}", f"{error:.2%}", error <= ATTENTION)
    for key, what in (("same_as_eager", "eager and graphs"), ("same_as_first", "all policies")):
        if rows:
            same, total = sum(row[key] for row in rows), sum(row["requests"] for row in rows)
            line = Line(f"tokens identical, {what}", "all", f"{same} of {total} answers", same == total)
            yield _partly(line, found.get("left_out", ()))


def _partly(line: Line, left_out: Sequence[str]) -> Line:
    """Return a line that does not vouch for what was left out; what is wrong already stays wrong."""
    if not left_out:
        return line
    return line._replace(measured=f"{line.measured}; left out: {len(left_out)}", met=None if line.met else False)


def _throughput(found: Found) -> Iterator[Line]:
    speed = {row["name"]: row["median_tokens_per_s"] for row in found["rows"] if "seconds" in row}
    turns = {row["name"]: row["seconds"] for row in found["rows"] if "seconds" in row}
    ours = _best(speed, BATONS)
    for peer, target in ((CONTINUOUS, CONTINUOUS_RATIO), (STATIC, STATIC_RATIO)):
        wanted, other = f"at least {target:g}", _best(speed, (peer,))
        if ours is None or other is None:
            reasons = [row["reason"] for row in found["rows"] if row["name"] == peer and "reason" in row]
            yield Line(f"throughput of BATON to {peer}", wanted, f"not measured: {(reasons or [NO_TIME])[0]}")
            continue
        ratio = median(theirs / mine for mine, theirs in zip(turns[ours], turns[other], strict=True) if mine and theirs)
        told = f"{ratio:.2f}, {ours} {speed[ours]:,.0f} and {other} {speed[other]:,.0f} tokens/s"
        yield Line(f"throughput of BATON to {peer}", wanted, told, ratio >= target)


def _best(speed: Mapping[str, float], families: Iterable[str]) -> str | None:
    """Return the fastest of some families: the first word of a name tells its family."""
    own = [name for name in speed if name.replace(",", " ").split()[0] in families]
    return max(own, key=lambda name: speed[name], default=None)


def _ratios(found: Found) -> Iterator[Line]:
    for execution in dict.fromkeys(row["execution"] for row in found["rows"]):
        for one in BATONS:
            for other in ("orca_per_request", "orca"):
                told = [*_by_batch(found, execution, one, other)]
                if told:
                    reached = [batch for batch, measured, _ in told if measured >= CLAIMED]
                    where = (
                        f"; {CLAIMED} at batch {', '.join(map(str, reached))}" if reached else f"; {CLAIMED} nowhere"
                    )
                    each = ", ".join(f"{batch}: {m:.2f}{_told(p)}" for batch, m, p in told)
                    yield Line(f"{one} to {other}, {execution}, by batch (predicted)", "measured", each + where)


def _by_batch(found: Found, execution: str, one: str, other: str) -> Iterator[tuple[int, float, float | None]]:
    """Yield batch, measured and predicted ratio of throughputs."""
    rows = {(row["batch"], row["policy"]): row for row in found["rows"] if row["execution"] == execution}
    for batch in sorted({batch for batch, _ in rows}):
        mine, theirs = rows.get((batch, one)), rows.get((batch, other))
        if mine is not None and theirs is not None:
            predicted = None
            if mine["predicted_seconds"] is not None and theirs["predicted_seconds"] is not None:
                predicted = theirs["predicted_seconds"] / mine["predicted_seconds"]
            yield batch, theirs["seconds"] / mine["seconds"], predicted


def _told(predicted: float | None) -> str:
    return "" if predicted is None else f" ({predicted:.2f})"


def _insertion(found: Found) -> Iterator[Line]:
    for row in found["rows"]:
        yield Line(
            f"insertion of {row['tokens']:,} tokens",
            f"at most {1e6 * row['bound_s']:,.0f} us",
            f"{1e6 * row['median_s']:,.0f} us",
            row["median_s"] <= row["bound_s"],
        )


def _validation(found: Found) -> Iterator[Line]:
    for kind, error in found.get("worst", {}).items():
        limit = ERRORS[kind]
        yield Line(
            f"error of the simulator, {kind}", f"within {limit:.0%}", f"{error:+.1%} at worst", abs(error) <= limit
        )
