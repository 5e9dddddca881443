"""What was measured, set beside what is predicted: each result to the statement that it is of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sim.claims.experiments import BATONS
from sim.claims.measurement import ALL_AT_ONCE, SAME_TOKENS, Machine, Measured, Measurement
from sim.claims.statements import PLACEMENTS, SAME_ANSWERS
from sim.claims.verdict import Bound, Factor, Finding, Statement, in_words


@dataclass(frozen=True)
class Other:
    """A result that no statement is of.

    Attributes:
        machine: Where it was measured.
        result: What was measured.
    """

    machine: Machine
    result: Measurement


@dataclass(frozen=True)
class Beside:
    """Everything that was measured, in its place.

    Attributes:
        statements: The statements, with what was measured of each.
        correct: The statement of correct outputs; None: nothing was measured of it.
        others: What no statement is of.
    """

    statements: Sequence[Statement]
    correct: Statement | None
    others: Sequence[Other]


def set_beside(statements: Sequence[Statement], measured: Sequence[Measured]) -> Beside:
    """Put every result that was measured where it belongs.

    A statement on BATON is measured where all requests are there at the start, as they are where it is predicted. A
    ratio that was taken the other way round is turned.
    """
    findings: list[list[Finding]] = [[] for _ in statements]
    answers: list[Finding] = []
    others: list[Other] = []
    for one in measured:
        for result in one.results:
            if (same := _of_answers(result)) is not None:
                answers.append(_finding(one.machine, same, {"load": same.load, "other": str(same.to)}))
                continue
            places = [(place, found) for place, stated in enumerate(statements) if (found := _of(stated, result))]
            for place, found in places:
                findings[place].append(_finding(one.machine, found))
            if not places:
                others.append(Other(one.machine, result))
    return Beside(
        statements=[
            replace(stated, measured=replace(stated, findings=found) if found else None)
            for stated, found in zip(statements, findings, strict=True)
        ],
        correct=_correct(answers) if answers else None,
        others=others,
    )


def _of(statement: Statement, result: Measurement) -> Measurement | None:
    """Return the result as the statement has it; None if it is of something else."""
    if result.load != ALL_AT_ONCE:
        return None
    for found in (result, result.turned()):
        if found and (found.metric, found.to) == (statement.metric, statement.to) and found.policy in BATONS:
            return found
    return None


def _of_answers(result: Measurement) -> Measurement | None:
    """Return a comparison of BATON's answers with those under another policy; None if it is something else.

    Two BATONs that agree may both be wrong, which says nothing; if they differ, one of them is.
    """
    found = (result, result.turned()) if result.metric == SAME_TOKENS else ()
    return next(
        (one for one in found if one and one.policy in BATONS and (one.to not in BATONS or one.measured < 1)), None
    )


def _correct(findings: Sequence[Finding]) -> Statement:
    return Statement(
        text="correct outputs",
        source="abstract",
        quantity=SAME_ANSWERS,
        bound=Bound(1.0, least=True),
        findings=findings,
        metric=SAME_TOKENS,
    )


def _finding(machine: Machine, result: Measurement, more: dict[str, Factor] | None = None) -> Finding:
    factors: dict[str, Factor] = {
        "machine": machine.place,
        "model": machine.network,
        "workload": result.workload,
        "batch": result.max_batch,
        "prefill": PLACEMENTS[result.policy],
        **(more or {}),
    }
    return Finding(factors, result.found, result.predicted, result.repeats)


def others_in_words(others: Sequence[Other]) -> Iterator[str]:
    """Yield lines on what no statement is of: a setting, then each quantity in it."""
    settings: dict[str, dict[str, list[str]]] = {}
    for other in others:
        machine, result = other.machine, other.result
        setting = (
            f"{machine.network} on {machine.place}: {result.workload}, {result.load}, {result.max_batch} rows, "
            f"{result.repeats}"
        )
        quantity = result.metric + (f" to {result.to}" if result.to else "")
        values = settings.setdefault(setting, {}).setdefault(quantity, [])
        values.append(f"{result.policy} {in_words(result.found)}{guessed(result.predicted)}")
    for setting, quantities in settings.items():
        yield f"- {setting}"
        yield from (f"  {quantity}: {'; '.join(values)}" for quantity, values in quantities.items())


def guessed(predicted: float | None) -> str:
    """Return in words what was predicted of a measured quantity, to stand behind it."""
    return "" if predicted is None else f", predicted {predicted:.2f}"


def where_measured(measured: Sequence[Measured]) -> str:
    """Return in words which machines the measured results are of."""
    if not measured:
        return "Predicted by simulation; nothing that was measured stands beside it."
    places = dict.fromkeys(f"{one.machine.network} on {one.machine.place}, {one.date}" for one in measured)
    gpu = any(one.machine.device != "cpu" for one in measured)
    return (
        f"Predicted by simulation. What was measured is of {'; '.join(places)}: not of the setting that is simulated"
        f"{'' if gpu else ', and not of a GPU'}; predicted beside it is what was predicted for that very setting."
    )
