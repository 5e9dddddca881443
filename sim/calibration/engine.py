"""The command line, `python -m sim.calibration.engine`: fits vLLM's constants on real runs."""

from collections.abc import Sequence
from pathlib import Path

from sim.calibration.command import CONF, complaints, parser, read_named
from sim.calibration.runs import LIMITS, METRICS, RUNS, Replay, fit_engine
from sim.cost.engine_constants import EngineConstants
from sim.output.writing import Draft, writing

SOURCE = "python -m sim.calibration.engine: two real runs, see docs/accuracy.md"
UNITS = {
    "step_overhead_s": "of every iteration, seconds",
    "matrix_factor": "matrix products, times what they take alone in a loop",
    "mixed_factor": "decode attention beside a prefill, times what it takes alone",
    "frontend_latency_s": "from the client to the scheduler, seconds",
}


def main() -> None:
    """Fit on both runs, print how well each is predicted by constants fitted on the other, write the file."""
    arguments = parser("sim.calibration.engine", main.__doc__, "runs/")
    engine_file = CONF / "engine" / "vllm.yaml"
    arguments.add_argument("--out", type=Path, default=engine_file, help="default conf/engine/vllm.yaml")
    given = arguments.parse_args()
    with complaints():
        replays = read_replays(given.data / "runs")
        for name, errors in left_out(replays):
            print(f"{name}, fitted on the other: {_shown(errors)}")
        engine = fit_engine(replays)
        for replay in replays:
            print(f"{replay.run.file}, fitted on both: {_shown(replay.errors(engine).tolist())}")
        write_engine(given.out, engine)
        print(f"wrote {given.out}")


def read_replays(folder: Path) -> list[Replay]:
    """Return the real runs of a folder.

    Raises:
        InputError: A file is missing or damaged.
    """
    gpus = {run.hardware: read_named("hardware", run.hardware) for run in RUNS}
    models = {run.model: read_named("model", run.model) for run in RUNS}
    return [Replay(run, folder, gpus, models) for run in RUNS]


def left_out(replays: Sequence[Replay]) -> list[tuple[str, list[float]]]:
    """Return each run's name and relative errors with constants fitted on the others."""
    found = []
    for replay in replays:
        engine = fit_engine([other for other in replays if other is not replay])
        found.append((replay.run.file, replay.errors(engine).tolist()))
    return found


def write_engine(path: Path, engine: EngineConstants) -> None:
    """Write an engine file.

    Raises:
        InputError: It cannot be written.
    """
    lines = [
        "# vLLM with CUDA graphs, on any GPU, with any model.",
        "_target_: sim.cost.engine_constants.EngineConstants",
        f"name: {engine.name}",
        f'source: "{SOURCE}"',
        *(f"{name}: {_number(getattr(engine, name))} # {text}" for name, text in UNITS.items()),
        "standard_errors: # what the fit left open",
        *(f"  {name}: {_number(error)}" for name, error in engine.standard_errors.items()),
    ]
    with writing(path), Draft(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    text = f"{value:.4g}"
    return text if "e" not in text or "." in text else text.replace("e", ".0e")


def _shown(errors: Sequence[float]) -> str:
    shown = zip(METRICS, errors, LIMITS, strict=True)
    return ", ".join(f"{metric} {error:+.1%} (limit {limit:.0%})" for metric, error, limit in shown)


if __name__ == "__main__":
    main()
