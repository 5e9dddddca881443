"""What a GPU took for each iteration, beside the clock's time in `iterations.parquet`."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sim.output.writing import Draft, writing


def add_device_times(path: Path, device_s: Sequence[float]) -> None:
    """Add the column `device_s`, in seconds, to a table of iterations; without any times, leave it as it is.

    Args:
        path: The file.
        device_s: Of every iteration, in the order of the table.

    Raises:
        InputError: The file cannot be written.
    """
    if not device_s:
        return
    table = pq.read_table(path)
    table = table.append_column("device_s", pa.array(device_s[: table.num_rows], pa.float64()))
    with writing(path), Draft(path) as part:
        pq.write_table(table, part, compression="zstd")
