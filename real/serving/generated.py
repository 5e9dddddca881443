"""What the model said: `generated.parquet`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sim.output.writing import Draft, writing


def write_generated(path: Path, count: int, generated: Mapping[int, Sequence[int]], tokenizer: Any = None) -> None:
    """Write the generated tokens, one row per request.

    Args:
        path: The file.
        count: Number of requests; those without tokens get an empty list.
        generated: Tokens by request id.
        tokenizer: The model's; None: the column `text` is left out.

    Raises:
        InputError: if the file cannot be written.
    """
    tokens = [list(generated.get(request, ())) for request in range(count)]
    columns: dict[str, pa.Array] = {
        "request_id": pa.array(range(count), pa.int64()),
        "tokens": pa.array(tokens, pa.list_(pa.int32())),
    }
    if tokenizer is not None:
        columns["text"] = pa.array([tokenizer.decode(each, skip_special_tokens=True) for each in tokens], pa.string())
    with writing(path), Draft(path) as part:
        pq.write_table(pa.table(columns), part, compression="zstd")
