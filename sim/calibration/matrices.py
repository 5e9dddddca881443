"""The table of matrix products."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sim.calibration.cleaning import Array, ascending, errors, rounded, typical
from sim.hardware import Hardware
from sim.kernels import MatrixProduct, roofline_seconds

TOKENS = (
    1, 4, 8, 16, 17, 32, 48, 64, 80, 96, 128, 129, 160, 192, 256, 257, 512, 513, 768, 769, 1024, 1025, 1280, 1536, 2048,
    2560, 3072, 4096, 8192, 16384,
)  # fmt: skip
OUTPUTS = (512, 1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 65536)
INPUTS = (512, 1024, 2048, 4096, 8192, 16384)


def clean_products(versions: pd.DataFrame) -> pd.DataFrame:
    """Return seconds [(n, k), m] of the typical version, never falling in m."""
    table = typical(versions).unstack("m").sort_index()
    for shape, row in table.iterrows():
        known = row.notna()
        table.loc[shape, known] = ascending(row[known].to_numpy(dtype=np.float64))
    return table


def fit_products(table: pd.DataFrame, datasheet: Hardware, source: str) -> MatrixProduct:
    """Return the shares of the roofline at the grid's shapes, and how well the other shapes are met.

    Args:
        table: Seconds [(n, k), m], clean.
        datasheet: The rates of the roofline.
        source: Where the table comes from.
    """
    share = np.full((len(OUTPUTS), len(INPUTS), len(TOKENS)), np.nan)
    for i, outputs in enumerate(OUTPUTS):
        for j, inputs in enumerate(INPUTS):
            if (outputs, inputs) in table.index:
                share[i, j] = _shares(table.T[(outputs, inputs)], outputs, inputs, datasheet)
            else:  # the largest of both does not fit: as the next smaller matrix
                share[i, j] = share[i, j - 1]
    made = MatrixProduct(
        source=source,
        tokens=TOKENS,
        outputs=OUTPUTS,
        inputs=INPUTS,
        share=[[rounded(row) for row in rows] for rows in share],
    )
    return judged(made, table, datasheet)


def _shares(row: pd.Series, outputs: int, inputs: int, datasheet: Hardware) -> Array:
    known = row.dropna()
    tokens = np.array(TOKENS, dtype=np.float64)
    seconds = np.interp(tokens, known.index.to_numpy(dtype=np.float64), known.to_numpy(dtype=np.float64))
    roofline = roofline_seconds(tokens, outputs, inputs, datasheet.peak_flops, datasheet.memory_bandwidth)
    return np.asarray(np.minimum(roofline / seconds, 1.0))


def judged(made: MatrixProduct, table: pd.DataFrame, datasheet: Hardware) -> MatrixProduct:
    """Return the table with its errors on shapes within its range that it was not made of, whole (n, k) pairs."""
    measured, predicted = held_out_products(made, table, datasheet)
    found: dict[str, Any] = errors(measured, predicted)
    return replace(made, **found)


def held_out_products(made: MatrixProduct, table: pd.DataFrame, datasheet: Hardware) -> tuple[Array, Array]:
    """Return measured and predicted seconds of shapes within the table's range that it was not made of."""
    measured, predicted = [], []
    for shape, row in table.iterrows():
        outputs, inputs = (int(size) for size in np.array(shape))
        grid = outputs in made.outputs and inputs in made.inputs
        if grid or not made.covers(outputs, inputs):
            continue
        known = row[row.index <= made.tokens[-1]].dropna()
        seconds = made.seconds(outputs, inputs, datasheet.peak_flops, datasheet.memory_bandwidth)
        predicted.append(np.interp(known.index.to_numpy(dtype=np.float64), made.tokens, seconds))
        measured.append(known.to_numpy(dtype=np.float64))
    return np.concatenate(measured), np.concatenate(predicted)
