"""What was measured, in files that task=claims takes: `python -m sim task=claims measured=FOLDER/claims_graphs.json`.

One file for each execution, since results of both are not of one setting, and one for the model of which tokens were
compared.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.throughput import BATONS
from sim.claims.measurement import ALL_AT_ONCE, RATIO, SAME_TOKENS, Machine, Measured, Measurement, write
from sim.engine.execution import EAGER, EXECUTIONS, GRAPHS
from workloads.demand import counted

ORCAS = ("orca_per_request", "orca")
SOFTWARE = ("torch", "transformers")

Found = Mapping[str, Any]


def write_claims(folder: Path, found: Mapping[str, Found]) -> list[Path]:
    """Write a file of every setting of which something was measured; return their paths.

    Args:
        folder: Where the sections left their files.
        found: What they found, by name.

    Raises:
        InputError: A file cannot be written.
    """
    made: list[Path] = []
    for execution in EXECUTIONS:
        ratios, validation = found.get("ratios", {}), found.get("validation", {})
        results = [*_of_ratios(ratios, execution)]
        if execution == GRAPHS.name and validation.get("rows"):
            results += _of_validation(json.loads((folder / validation["report"]).read_text("utf-8")), validation)
        facts = ratios if ratios.get("rows") else validation
        made += _written(folder / f"claims_{execution}.json", facts, execution, results)
    exact = found.get("exactness", {})
    made += _written(folder / "claims_tokens.json", exact, "eager", _of_tokens(exact))
    return made


def _written(path: Path, found: Found, execution: str, results: Iterable[Measurement]) -> Iterator[Path]:
    results = [*results]
    if not results:
        return
    machine = Machine(
        **{name: found[name] for name in ("device", "machine", "model", "dtype", "threads")},
        attention="sdpa",
        execution=execution,
        versions={name: found["versions"][name] for name in SOFTWARE},
    )
    write(path, Measured(machine=machine, date=found["date"][:10], commands=[found["command"]], results=results))
    yield path


def _of_ratios(found: Found, execution: str) -> Iterator[Measurement]:
    """Yield BATON's throughput relative to Orca's, by batch: one run of each."""
    rows = {(row["batch"], row["policy"]): row for row in found.get("rows", ()) if row["execution"] == execution}
    for batch in sorted({batch for batch, _ in rows}):
        for one, other in itertools.product(BATONS, ORCAS):
            mine, theirs = rows.get((batch, one)), rows.get((batch, other))
            if mine is None or theirs is None:
                continue
            predicted = None
            if mine["predicted_seconds"] is not None and theirs["predicted_seconds"] is not None:
                predicted = theirs["predicted_seconds"] / mine["predicted_seconds"]
            yield Measurement(
                metric=RATIO,
                policy=one,
                to=other,
                workload=f"sharegpt, lengths x {found['length_scale']:g}, at most {found['longest']} tokens",
                load=ALL_AT_ONCE,
                num_requests=mine["num_requests"],
                max_batch=batch,
                repeats="1 run, seed 0",
                count=1,
                measured=theirs["seconds"] / mine["seconds"],
                standard_error=None,
                predicted=predicted,
            )


def _of_validation(report: Found, found: Found) -> Iterator[Measurement]:
    """Yield the ratios of throughput that were predicted and measured in rounds."""
    for load in report["loads"]:
        for ratio in load.get("ratios", ()):
            yield Measurement(
                metric=RATIO,
                policy=ratio["policy"],
                to=ratio["to"],
                workload=f"{load['workload']}, at most {found['longest']} tokens",
                load=load["load"],
                num_requests=load["num_requests"],
                max_batch=found["max_batch"],
                repeats=f"{counted(load['rounds'], 'round')} of the same requests, seed {report['seed']}",
                count=load["rounds"],
                measured=ratio["measured"],
                standard_error=ratio["standard_error"],
                predicted=ratio["predicted"],
            )


def _of_tokens(found: Found) -> Iterator[Measurement]:
    """Yield how many answers had the same tokens as under the policy that was served first."""
    eager = [row for row in found.get("rows", ()) if row["execution"] == EAGER.name]
    for row in eager[1:]:
        yield Measurement(
            metric=SAME_TOKENS,
            policy=row["policy"],
            to=eager[0]["policy"],
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
