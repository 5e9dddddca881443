"""The command line, `python -m sim.calibration.accuracy`: every comparison with a measurement, as tables."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from policies.checks import InputError
from sim.calibration.command import CONF, complaints, parser, read_named
from sim.calibration.comparisons import Comparison, blis_attention, first_token, gpt_fast
from sim.calibration.engine import left_out, read_replays
from sim.calibration.gpus import GPUS
from sim.calibration.runs import LIMITS, METRICS
from sim.cost.kernels.calibrated import Calibrated
from sim.cost.kernels.tables import Table
from sim.cost.model import Model

BEGIN, END = "<!-- tables: python -m sim.calibration.accuracy -->", "<!-- end of tables -->"
PAGE = CONF.parent / "docs" / "accuracy.md"
KERNEL_LIMITS = (0.05, 0.15)
"""Largest median and 90th percentile of the errors of a table on shapes that it was not made of."""
GPT_FAST_LIMIT, FIRST_TOKEN_LIMIT = 0.10, 0.20
PUBLISHED = {
    "Llama-2-7B": "llama2_7b",
    "Llama-2-70B": "llama2_70b",
    "Llama-3.1-8B": "llama3_8b",
    "LLaMA 7B": "llama2_7b",
    "LLaMA 70B": "llama2_70b",
}
"""Models by the names that publications give them."""


def main() -> None:
    """Compute every comparison anew and put the tables into docs/accuracy.md."""
    arguments = parser("sim.calibration.accuracy", main.__doc__, "profiles/ and runs/")
    arguments.add_argument("--page", type=Path, default=PAGE, help="default docs/accuracy.md")
    given = arguments.parse_args()
    with complaints():
        text = given.page.read_text(encoding="utf-8")
        before, begins, rest = text.partition(BEGIN)
        _, ends, after = rest.partition(END)
        if not (begins and ends):
            raise InputError(f"{given.page}: has no lines {BEGIN} and {END} to put the tables between")
        tables = "\n".join(all_tables(given.data))
        given.page.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")
        print(tables)


def all_tables(data: Path) -> Iterator[str]:
    """Yield the lines of every table.

    Raises:
        InputError: A measurement is missing or damaged.
    """
    yield "\n### Kernels, on shapes that the tables are not made of\n"
    yield from _markdown(("GPU", "kernel", "median error", "90th percentile"), _kernel_rows())
    yield "\n### Attention on the H100, beside another project's measurements (BLIS)\n"
    yield from _markdown(("kernel", "shapes", "median, signed", "median error", "90th percentile"), _crosschecks(data))
    published = data / "profiles" / "published_tables"
    gpu, models = read_named("hardware", "a100_sxm"), published_models()
    yield "\n### gpt-fast, one decoded token at batch 1, A100, bf16 (engine=ideal)\n"
    yield from _markdown(_PUBLISHED, _rows(gpt_fast(published, gpu, read_named("engine", "ideal"), models)))
    yield "\n### TensorRT-LLM 0.5, first token of one prompt, A100, fp16 (engine=vllm)\n"
    yield from _markdown(_PUBLISHED, _rows(first_token(published, gpu, read_named("engine", "vllm"), models)))
    yield "\n### Real runs of vLLM, each predicted with constants fitted on the other\n"
    heads = ("run", *(f"{metric} (limit {limit:.0%})" for metric, limit in zip(METRICS, LIMITS, strict=True)))
    rows = [(name, *(f"{error:+.1%}" for error in errors)) for name, errors in left_out(read_replays(data / "runs"))]
    yield from _markdown(heads, rows)


_PUBLISHED = ("model", "measured, ms", "predicted, ms", "error")


def published_models() -> dict[str, Model]:
    """Return the models of the published tables, by their names there."""
    return {name: read_named("model", model) for name, model in PUBLISHED.items()}


def kernel_tables(gpu: Calibrated) -> Iterator[tuple[str, Table]]:
    """Yield name and table of each kind of kernel that was judged."""
    yield "matrix products", gpu.matrices
    for table in gpu.decode:
        kind = "multi-head" if table.mha else "grouped-query"
        yield f"decode attention, {kind}, {table.kv_heads} KV heads", table
    yield "prefill attention, whole prompts", gpu.prompts[0]
    yield "prefill attention, chunks", gpu.chunks


def _kernel_rows() -> Iterator[tuple[str, ...]]:
    for name in GPUS:
        for kernel, table in kernel_tables(read_named("hardware", name)):
            if table.median_error is None or table.p90_error is None:
                yield name, kernel, "not judged", ""
            else:
                yield name, kernel, f"{table.median_error:.1%}", f"{table.p90_error:.1%}"


def _crosschecks(data: Path) -> Iterator[tuple[str, ...]]:
    for one in blis_attention(data / "profiles" / "blis_h100_kernels" / "mha", read_named("hardware", "h100_sxm")):
        yield one.kernel, str(one.shapes), f"{one.bias:+.1%}", f"{one.median_error:.1%}", f"{one.p90_error:.1%}"


def _rows(comparisons: Iterable[Comparison]) -> Iterator[tuple[str, ...]]:
    for one in comparisons:
        yield one.what, f"{one.measured_s * 1e3:.1f}", f"{one.predicted_s * 1e3:.1f}", f"{one.error:+.1%}"


def _markdown(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join(['---'] + ['---:'] * (len(heads) - 1))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
