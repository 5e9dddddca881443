"""Every claim tried: what `python -m sim task=claims` and the notebook run."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from sim.claims.beside import Other, guessed, set_beside, where_measured
from sim.claims.experiments import SCALES, Sampled, at_load, cases, preempting, sample
from sim.claims.measurement import Measured, committed
from sim.claims.options import Size
from sim.claims.statements import CORRECT, statements
from sim.claims.verdict import Finding, Statement, in_words
from sim.simulation.results import Results
from sim.simulation.setting import Setting

if TYPE_CHECKING:
    from pandas import DataFrame

NOTHING = "nothing"
"""What stands beside a prediction of which nothing was measured."""

NOTES = (
    "The paper's own models, GPUs, data and figures were not available: every setting here is ours.",
    "Intervals are over runs with different random requests, of measured results over what was repeated; how far the "
    "prediction of times may be off is in docs/accuracy.md.",
    "near-zero is taken for at most 5 %, no additional memory for at most 2 % more; the abstract gives no numbers.",
    "The throughput of BATON with a GPU of its own for prefill is divided by the two GPUs it uses.",
    "Preemption and batch scaling are not in the abstract: they are said of the mechanism, and marked as design.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Claims:
    """What was found.

    Attributes:
        statements: Every statement, with its verdict.
        samples: Every setting, with the metrics of every run.
        at_load: Policies at 0.7 of what Orca can serve, one run each.
        preempting: BATON with and without preemption where KV memory is short, one run each.
        measured: What was measured, machine by machine.
        correct: The statement of correct outputs, of which nothing is simulated; None: nothing was measured either.
        others: What was measured and no statement is of.
    """

    statements: Sequence[Statement]
    samples: Sequence[Sampled]
    at_load: Results
    preempting: Results
    measured: Sequence[Measured] = ()
    correct: Statement | None = None
    others: Sequence[Other] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, a sentence each."""
        return (NOTES[0], where_measured(self.measured), *NOTES[1:])

    @property
    def table(self) -> "DataFrame":
        """A DataFrame with a row per statement: what is stated, of what, what was found, and the verdict."""
        import pandas as pd

        return pd.DataFrame([row_of(statement) for statement in self.statements])

    def runs(self) -> "DataFrame":
        """Return a DataFrame with a row per simulated run: experiment, factors, policy, seed's place, every metric."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"experiment": sampled.case.experiment, **sampled.case.factors, "policy": name, "run": place, **summary}
                for sampled in self.samples
                for name, summaries in sampled.summaries.items()
                for place, summary in enumerate(summaries)
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """Return what a file shall say, as JSON values."""
        return {
            "statements": [
                row_of(statement)
                | {"findings": _findings(statement), "measured_findings": _findings(statement.measured)}
                for statement in self.statements
            ],
            "correct_outputs": {
                "statement": CORRECT,
                **measured_row(self.correct),
                "measured_findings": _findings(self.correct),
            },
            "other_measurements": [asdict(other) for other in self.others],
            "notes": list(self.notes),
        }


def row_of(statement: Statement) -> dict[str, str]:
    """Return a statement as a row of the table, in words."""
    low, high = statement.lowest, statement.highest
    return {
        "source": statement.source,
        "statement": statement.text,
        "quantity": statement.quantity,
        "stated": str(statement.bound),
        "lowest": f"{in_words(low.found)}: {_words(low)}",
        "highest": f"{in_words(high.found)}: {_words(high)}",
        "settings": str(len(statement.findings)),
        "verdict": statement.verdict.value,
        "when": statement.condition,
        **measured_row(statement.measured),
    }


def measured_row(measured: Statement | None) -> dict[str, str]:
    """Return what a row says of what was measured: lowest and highest, beside what was predicted; the verdict."""
    if measured is None:
        return {"measured": NOTHING, "measured_verdict": "", "measured_when": ""}
    ends = dict.fromkeys(map(_measured_words, (measured.lowest, measured.highest)))
    return {
        "measured": "; ".join(ends),
        "measured_verdict": measured.verdict.value,
        "measured_when": measured.condition,
    }


def _measured_words(finding: Finding) -> str:
    return f"{in_words(finding.found)}{guessed(finding.predicted)}: {_words(finding)}, {finding.repeats}"


def _words(finding: Finding) -> str:
    return ", ".join(f"{name} {value}" for name, value in finding.factors.items())


def _findings(statement: Statement | None) -> list[dict[str, Any]]:
    return [_finding(finding) for finding in statement.findings] if statement else []


def _finding(finding: Finding) -> dict[str, Any]:
    values = {name: value if isfinite(value) else None for name, value in asdict(finding.found).items()}
    measured = {"predicted": finding.predicted, "repeats": finding.repeats} if finding.repeats else {}
    return {"setting": dict(finding.factors), **values, **measured}


def try_claims(
    setting: Setting,
    size: Size = "quick",
    seed: int = 0,
    on_run: Callable[[int, int], None] = lambda done, of: None,
    measured: Sequence[Measured] | None = None,
) -> Claims:
    """Simulate everything that the claims need; minutes if `full`.

    Args:
        setting: The GPU, the engine and the model.
        size: `quick` or `full`.
        seed: Of the first run of every setting; the others have the numbers that follow.
        on_run: Hears of every run that is over: how many are, and of how many.
        measured: What was measured, to be set beside; None: what the project holds.

    Raises:
        InputError: The hardware has no costs for the model, or the model does not fit.
    """
    scale = SCALES[size]
    seeds = range(seed, seed + scale.seeds)
    every = list(cases(scale))
    total = scale.seeds * sum(len(case.policies) for case in every)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_run(done, total)

    samples = [sample(case, setting, seeds, count) for case in every]
    measured = committed() if measured is None else measured
    beside = set_beside(statements(samples), measured)
    return Claims(
        **vars(beside),
        measured=measured,
        samples=samples,
        at_load=at_load(setting, scale, seed),
        preempting=preempting(setting, scale, seed),
    )
