"""What the cells say of BATON against Orca, and the files that `python -m sim task=claims measured=FILE` takes.

One file for each execution, since results of both are not of one setting, and one for the model of which tokens were
compared.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sim.claims.measurement import ALL_AT_ONCE, RATIO, SAME_TOKENS, Machine, Measured, Measurement, write
from sim.engine.execution import EXECUTIONS
from sim.metrics.interval import CONFIDENCE, Interval, ratio_interval, t_quantile
from workloads.demand import counted

BATONS, ORCAS = ("baton_ragged", "baton"), ("orca_per_request", "orca")
PER_REQUEST, FUSED = ORCAS
SOFTWARE = ("torch", "transformers")
CLAIMED = 1.75
"""What BATON is said to be worth, in times of Orca."""

NEAR = 1.1
"""A ratio up to this is near 1."""

Row = Mapping[str, Any]
Found = Mapping[str, Any]
"""As `results.json` has it."""


class Ratio(NamedTuple):
    """How many times as many requests per second one policy served as another, in one cell.

    Attributes:
        facts: The cell, as its rows have it.
        policy: Whose throughput it is.
        to: Relative to whose.
        rounds: How many rounds it is of.
        found: The geometric mean over the rounds and its 95 % interval, unbounded after one round.
        predicted: What was predicted; None: nothing.
        saturated: Whether both were saturated in every round.
    """

    facts: Row
    policy: str
    to: str
    rounds: int
    found: Interval
    predicted: float | None
    saturated: bool

    @property
    def setting(self) -> str:
        """The cell and the policies in words."""
        return f"{self.policy} to {self.to}, {self.facts['cell']}"

    @property
    def holds(self) -> bool:
        """Whether what is claimed holds: all of the interval is at least that."""
        return self.found.low >= CLAIMED


def cell_rows(found: Found) -> list[Row]:
    """Return what was measured of all cells, a row for each run."""
    return [row for part in found["parts"].values() for row in part["rows"] if "cell" in row and "round" in row]


def predictions(found: Found) -> dict[tuple[str, str], Row]:
    """Return what was predicted, by cell and policy."""
    rows = found["parts"].get("predictions", {}).get("rows", ())
    return {(row["cell"], row["policy"]): row for row in rows}


def ratios_of(found: Found) -> list[Ratio]:
    """Return the ratios of every BATON to every Orca in every cell, of the rounds in which both took their turn.

    Only of cells whose requests are all there at the start: where they come in time, arrivals decide on throughput.
    """
    rows, told, made = [row for row in cell_rows(found) if row["load"] is None], predictions(found), []
    runs = {(row["cell"], row["policy"], row["round"]): row for row in rows}
    for cell, one, other in itertools.product(dict.fromkeys(row["cell"] for row in rows), BATONS, ORCAS):
        places = sorted(place for named, policy, place in runs if (named, policy) == (cell, one))
        pairs = [(runs[cell, one, place], runs[cell, other, place]) for place in places if (cell, other, place) in runs]
        if not pairs:
            continue
        between = ratio_interval([mine["score"] for mine, _ in pairs], [theirs["score"] for _, theirs in pairs])
        if between is None:
            continue
        predicted = [told[cell, name]["score"] for name in (one, other) if (cell, name) in told]
        made.append(
            Ratio(
                pairs[0][0],
                one,
                other,
                len(pairs),
                between,
                predicted[0] / predicted[1] if len(predicted) == 2 and predicted[1] else None,
                all(row["saturated"] for pair in pairs for row in pair),
            )
        )
    return made


def verdict(ratios: Sequence[Ratio]) -> str:
    """Return in words where what is claimed holds, and as what.

    It holds in a cell if the lower end of the interval is at least that. If it does so against one launch per request
    only, while the ratio to the fused kernel stays near or below 1, it is no gain of scheduling.
    """
    if not ratios:
        return "not measured"
    fused, apart = ([ratio for ratio in ratios if ratio.to == to and ratio.holds] for to in (FUSED, PER_REQUEST))
    if fused:
        return f"holds as a gain of scheduling: {_listed(fused)}"
    alone = [ratio for ratio in ratios if ratio.rounds == 1 and ratio.found.estimate >= CLAIMED]
    open_ = f"; in one round each, without an interval: {_listed(alone)}" if alone else ""
    most = max((ratio.found.estimate for ratio in ratios if ratio.to == FUSED), default=None)
    if not apart:
        return f"holds in no cell{open_}"
    said = f"holds against one attention launch per request: {_listed(apart)}"
    if most is not None and most <= NEAR and not any(ratio.to == FUSED for ratio in alone):
        return f"{said}{open_}; refuted as a gain of scheduling: at most {most:.2f} against the fused kernel"
    return f"{said}{open_}; as a gain of scheduling open"


def _listed(ratios: Iterable[Ratio]) -> str:
    return "; ".join(f"{ratio.setting} ({ratio.found.estimate:.2f})" for ratio in ratios)


def write_claims(folder: Path, found: Found) -> list[Path]:
    """Write a file of every setting of which something was measured; return their paths.

    Raises:
        InputError: A file cannot be written.
    """
    made: list[Path] = []
    ratios = ratios_of(found)
    for execution in EXECUTIONS:
        results = [_measurement(ratio) for ratio in ratios if ratio.facts["execution"] == execution]
        made += _written(folder / f"claims_{execution}.json", found, found, execution, results)
    tokens = found["parts"].get("tokens", {})
    made += _written(folder / "claims_tokens.json", found, tokens, "eager", _of_tokens(tokens))
    return made


def _written(
    path: Path, found: Found, network: Found, execution: str, results: Iterable[Measurement]
) -> Iterator[Path]:
    results = [*results]
    if not results:
        return
    machine = Machine(
        device=found["device"],
        machine=found["machine"],
        threads=found["threads"],
        model=network["model"],
        dtype=network["dtype"],
        attention="sdpa",
        execution=execution,
        versions={name: found["versions"][name] for name in SOFTWARE},
    )
    write(path, Measured(machine=machine, date=found["date"][:10], commands=[found["command"]], results=results))
    yield path


def _measurement(ratio: Ratio) -> Measurement:
    facts, rounds = ratio.facts, ratio.rounds
    part = "saturated part" if ratio.saturated else "not saturated"
    return Measurement(
        metric=RATIO,
        policy=ratio.policy,
        to=ratio.to,
        workload=f"sharegpt, lengths x {facts['scale']:g}, at most {facts['longest']} tokens, {part}",
        load=ALL_AT_ONCE,
        num_requests=facts["num_requests"],
        max_batch=facts["batch"],
        repeats=f"{counted(rounds, 'round')} of the same requests",
        count=rounds,
        measured=ratio.found.estimate,
        standard_error=_standard_error(ratio),
        predicted=ratio.predicted,
    )


def _standard_error(ratio: Ratio) -> float | None:
    """Return that of the logarithm, None of one round."""
    if ratio.rounds < 2:
        return None
    half = math.log(ratio.found.estimate / ratio.found.low)
    return half / t_quantile(CONFIDENCE, ratio.rounds - 1)


def _of_tokens(found: Found) -> Iterator[Measurement]:
    """Yield how many answers had the same tokens as under the policy that was served first."""
    rows = found.get("rows", ())
    for row in rows[1:]:
        yield Measurement(
            metric=SAME_TOKENS,
            policy=row["policy"],
            to=rows[0]["policy"],
            workload=f"sharegpt, at most {found['longest']} tokens",
            load=ALL_AT_ONCE,
            num_requests=row["requests"],
            max_batch=found["max_batch"],
            repeats="1 run, seed 0",
            count=1,
            measured=row["same_as_first"] / row["requests"],
            standard_error=0.0,
            predicted=None,
        )
