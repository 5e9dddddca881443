"""What was wanted, measured and predicted, side by side; nothing is said of what was not measured but why."""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.gpu.claims import BATONS, CLAIMED, Found, Ratio, Row, cell_rows, predictions, ratios_of, verdict

WIDTH = 160
ATTENTION = 0.01
"""Relative error of attention in bf16, whose values have 8 bits: some 0.3 % of rounding each way."""

STEPS = {"H100": 1.30, "H200": 1.40}
"""Most times its floor that a decode step may take, by what a GPU's name holds."""

TARGETED = "baton_ragged", "graphs"
"""Policy and execution that this target is for."""

PEERS = {"generate_batch": 2.0, "generate": 3.0}
"""How many times the throughput of transformers' own ways BATON is to have, by how their names begin."""

ERRORS = {"throughput": 0.05, "mean TTFT": 0.08, "mean E2E": 0.08, "ratios of throughput": 0.03}
QUANTITIES = {"throughput": "score", "mean TTFT": "mean_ttft_s", "mean E2E": "mean_e2e_s"}
NOT_REACHED = "not reached"
LISTED = 3
"""Of what was left out for the same reason, so many are named."""


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        what: What is measured.
        target: What was wanted, in words.
        measured: What was found, in words.
        predicted: What was predicted, in words.
        met: Whether that is enough; None: nobody asked, or it was not measured.
    """

    what: str
    target: str
    measured: str
    predicted: str = ""
    met: bool | None = None


def text_of(found: Found) -> str:
    """Return the table as text, with the machine above it."""
    judged = bool(found.get("judged"))
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what", "target", "measured", "predicted", *(["met"] if judged else [])):
        made.add_column(heading, overflow="fold")
    for line in lines(found):
        met = {True: "yes", False: "NO", None: "-"}[line.met]
        made.add_row(line.what, line.target, line.measured, line.predicted, *([met] if judged else []))
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, highlight=False, markup=False, color_system=None)
    console.print(f"{found.get('machine', 'no device yet')}, {found.get('model')}, {found.get('date')}")
    if not judged:
        console.print("A rehearsal: targets are for full sizes on a GPU, and nothing is judged.")
    if "interrupted" in found:
        console.print(f"Interrupted: {found['interrupted']}.")
    console.print(made)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def lines(found: Found) -> list[Line]:
    """Return the table, from what the parts have found; of the plan's other parts, why they found nothing."""
    readers = {
        "kernels": _kernels,
        "tokens": _tokens,
        "ladder": _ladder,
        "mixed steps": _mixed,
        "insertion": _insertion,
        "launches": _launches,
        "peers": _peers,
    }
    table: list[Line] = []
    if cell_rows(found):
        table += [*_cells(found)]
    for name in found.get("plan", ()):
        part = found["parts"].get(name)
        if part is None:
            table.append(Line(name, "", f"not measured: {NOT_REACHED}"))
            continue
        if name in readers and (part["rows"] or name == "kernels"):
            table += readers[name](part, found)
        for reason in _missing(part):
            table.append(Line(name, "", f"not measured: {reason}"))
    return table


def _missing(part: Found) -> Iterator[str]:
    """Yield what a part did not measure, by its reason."""
    if "reason" in part:
        yield part["reason"]
    left = part.get("left_out", ())
    for why in dict.fromkeys(each["why"] for each in left):
        every = [each["what"] for each in left if each["why"] == why]
        more = f"; {len(every) - LISTED} more" if len(every) > LISTED else ""
        yield f"{why} ({'; '.join(every[:LISTED])}{more})"


def _kernels(part: Found, found: Found) -> Iterator[Line]:
    for name, error in part.get("attention_errors", {}).items():
        what = f"attention in bf16 against float64, {name}"
        yield Line(what, f"within {ATTENTION:.0%}", f"{error:.2%}", met=error <= ATTENTION)
    for row in part["rows"]:
        yield Line("tests of the kernels", "pass", row["said"], met=row["passed"])


def _tokens(part: Found, found: Found) -> Iterator[Line]:
    same, total = (sum(row[key] for row in part["rows"]) for key in ("same_as_eager", "requests"))
    gaps = [gap for row in part["rows"] for gap in row["gaps"].values()]
    worst = f", largest gap of logits where they part {max(gaps):.1e}" if gaps else ""
    told = f"{same} of {total} answers, {', '.join(row['policy'] for row in part['rows'])}{worst}"
    met = False if same < total else None if part.get("left_out") else True
    yield Line("tokens identical, eager and graphs", "all", told, met=met)


def step_target(machine: str) -> float | None:
    """Return the most times its floor that a decode step may take on a GPU; None: nobody said."""
    return next((most for name, most in STEPS.items() if name in machine), None)


def _steps(part: Found, found: Found) -> Iterator[Line]:
    rows = [row for row in part["rows"] if (row["policy"], row["execution"]) == TARGETED]
    if rows:
        most = step_target(found["machine"])
        told = ", ".join(f"{row['batch']}: {row['ratio']:.2f}" for row in rows)
        met = None if most is None else all(row["ratio"] <= most for row in rows)
        target = "none for this GPU" if most is None else f"at most {most:.2f}"
        yield Line(f"decode step over its floor, {' '.join(TARGETED)}, by batch", target, told, met=met)


def _ladder(part: Found, found: Found) -> Iterator[Line]:
    yield from _steps(part, found)
    for row in part.get("profiled", ()):
        told = f"{_ms(row['kernels_s'])} of {_ms(row['wall_s'])} by the clock, {row['launched']:.0f} kernels"
        yield Line(f"kernels of a step, batch {row['batch']}", "", told)


def _mixed(part: Found, found: Found) -> Iterator[Line]:
    for row in part["rows"]:
        device = "" if row["device_s"] is None else f", {_ms(row['device_s'])} by the device"
        told = f"{_ms(row['wall_s'])} by the clock{device}; the first {_ms(row['compile_s'])} longer"
        yield Line(f"step with a newcomer of {row['tokens']} tokens, {row['policy']}", "", told)


def _insertion(part: Found, found: Found) -> Iterator[Line]:
    for row in part["rows"]:
        bound, taken = (f"{1e6 * row[key]:,.0f} us" for key in ("bound_s", "median_s"))
        what = f"insertion of {row['tokens']:,} tokens"
        yield Line(what, f"at most {bound}", taken, met=row["median_s"] <= row["bound_s"])


def _launches(part: Found, found: Found) -> Iterator[Line]:
    yield from _steps(part, found)
    for execution, fits in part.get("fits", {}).items():
        times = [
            f"{policy} {_ms(fit['t0_s'])} + {1e6 * fit['t_launch_s']:.1f} us"
            for policy, fit in fits.items()
            if policy != "crossing"
        ]
        if times:
            yield Line(f"decode step, {execution}: t0 + rows x layers x", "", "; ".join(times))
        if "crossing" in fits:
            where = "nowhere" if fits["crossing"] is None else f"from batch {fits['crossing']:.1f}"
            what = f"decode steps of orca_per_request over baton_ragged, {execution}"
            yield Line(what, "measured", f"{CLAIMED} {where}, by lines through {_batches(part, execution)}")


def _batches(part: Found, execution: str) -> str:
    batches = sorted({row["batch"] for row in part["rows"] if row["execution"] == execution})
    return f"batches {', '.join(map(str, batches))}"


def _cells(found: Found) -> Iterator[Line]:
    ratios = ratios_of(found)
    groups: dict[str, list[Ratio]] = {}
    for ratio in ratios:
        facts = ratio.facts
        lengths = f"x {facts['scale']:g} up to {facts['longest']}"
        groups.setdefault(f"{ratio.policy} to {ratio.to}, {facts['execution']}, {lengths}", []).append(ratio)
    for what, group in groups.items():
        group.sort(key=lambda ratio: ratio.facts["batch"])
        told = "; ".join(f"{ratio.facts['batch']}: {in_words(ratio)}" for ratio in group)
        predicted = [f"{each.facts['batch']}: {each.predicted:.2f}" for each in group if each.predicted is not None]
        yield Line(f"{what}, by batch", "measured", told, ", ".join(predicted))
    yield Line(f"{CLAIMED} times Orca", "measured", verdict(ratios))
    for kind, errors in errors_of(found, ratios).items():
        setting, worst = max(errors, key=lambda each: abs(each[1]))
        told = f"{worst:+.1%} at worst of {len(errors)}, {setting}"
        yield Line(
            f"error of the simulator, {kind}", f"within {ERRORS[kind]:.0%}", told, met=abs(worst) <= ERRORS[kind]
        )
    for name in ("prefill", "decode"):
        yield from _device(name, cell_rows(found))


def in_words(ratio: Ratio) -> str:
    """Return a measured ratio with its 95 % interval, or what keeps it from having one; and if it is not saturated."""
    found = ratio.found
    told = "one round" if math.isinf(found.high) else f"{found.low:.2f} to {found.high:.2f}"
    return f"{found.estimate:.2f} ({told}{'' if ratio.saturated else ', not saturated'})"


def errors_of(found: Found, ratios: Sequence[Ratio]) -> dict[str, list[tuple[str, float]]]:
    """Return the relative errors of the predictions by kind, with what each is of; the mean of rounds is measured."""
    rows, made = cell_rows(found), dict[str, list[tuple[str, float]]]()
    for (cell, policy), told in predictions(found).items():
        own = [row for row in rows if (row["cell"], row["policy"]) == (cell, policy)]
        for kind, key in QUANTITIES.items():
            measured = [row[key] for row in own if row[key]]
            decided = kind == "throughput" and told["load"] is not None  # by arrivals
            if measured and told[key] is not None and not decided:
                made.setdefault(kind, []).append((f"{policy}, {cell}", told[key] / mean(measured) - 1))
    pairs = [(ratio.setting, ratio.predicted / ratio.found.estimate - 1) for ratio in ratios if ratio.predicted]
    return made | ({"ratios of throughput": pairs} if pairs else {})


def _device(name: str, rows: Iterable[Row]) -> Iterator[Line]:
    """Tell which share of the clock's time lies between an iteration's first launch and its last kernel, by policy."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        lane: Mapping[str, Any] = row.get(name, {})
        if lane.get("device_s") and lane["wall_s"]:
            shares.setdefault(f"{row['policy']} {row['execution']}", []).append(lane["device_s"] / lane["wall_s"])
    if shares:
        told = ", ".join(f"{key} {mean(each):.0%}" for key, each in shares.items())
        yield Line(f"first launch to last kernel over time by the clock, iterations with {name}", "", told)


def _peers(part: Found, found: Found) -> Iterator[Line]:
    speed: dict[str, list[float]] = {}
    for row in part["rows"]:
        speed.setdefault(row["name"], []).append(row["tokens_per_s"])
    ours = _best(speed, BATONS)
    for peer, target in PEERS.items():
        other, what, wanted = _best(speed, (peer,)), f"throughput of BATON to {peer}", f"at least {target:g}"
        if ours is None or other is None:
            yield Line(what, wanted, "not measured, see below")
            continue
        ratio = median(mine / theirs for mine, theirs in zip(speed[ours], speed[other], strict=False))
        told = f"{ratio:.2f}, {ours} {median(speed[ours]):,.0f} and {other} {median(speed[other]):,.0f} tokens/s"
        yield Line(what, wanted, told, met=ratio >= target)


def _best(speed: Mapping[str, Sequence[float]], families: Iterable[str]) -> str | None:
    """Return the fastest of some families: the first word of a name tells its family."""
    own = [name for name in speed if name.replace(",", " ").split()[0] in families]
    return max(own, key=lambda name: median(speed[name]), default=None)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"
