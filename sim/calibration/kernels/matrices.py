"""The table of matrix products."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sim.calibration.kernels.cleaning import Array, ascending, errors, rounded, typical
from sim.cost.datasheet import Hardware
from sim.cost.kernels.tables import MatrixProduct, roofline_seconds

TOKENS = (
    1, 4, 8, 16, 17, 32, 48, 64, 80, 96, 128, 129, 160, 192, 256, 257, 512, 513, 768, 769, 1024, 1025, 1280, 1536, 2048,
    2560, 3072, 4096, 8192, 16384,
)  # fmt: skip
OUTPUTS = (512, 1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 65536)
INPUTS = (512, 1024, 2048, 4096, 8192, 16384, 65536)
FOLDS = 3
"""Every matrix is judged by shares that were fitted without its fold, one of so many."""
HOLD = 0.05
"""Weight of the mean share against a matrix that was measured."""


def clean_products(versions: pd.DataFrame, datasheet: Hardware) -> pd.DataFrame:
    """Return seconds [(n, k), m] of the typical version, never falling in m, never below the roofline.

    What is faster than the roofline was read from the cache, where the run before had left it. The weights of a whole
    model come from memory.
    """
    table = typical(versions).unstack("m").sort_index().sort_index(axis=1)
    for outputs, inputs in table.index:
        row = table.T[outputs, inputs]
        known = row.dropna()
        tokens = known.index.to_numpy(dtype=np.float64)
        roofline = roofline_seconds(tokens, outputs, inputs, datasheet.peak_flops, datasheet.memory_bandwidth)
        clean = ascending(known.to_numpy(dtype=np.float64))
        table.loc[(outputs, inputs), row.notna()] = np.maximum(clean, roofline)
    return table


def fit_products(table: pd.DataFrame, datasheet: Hardware, source: str) -> MatrixProduct:
    """Return the shares of the roofline that meet all matrices best, judged by cross-validation.

    Least squares of log(share), each matrix between its neighbours on the grid as `MatrixProduct` interpolates; what
    they leave open is held by the mean share. The errors are those of shares fitted the same way to the matrices of the
    other folds, so that every matrix is judged once, by what it had no part in.

    Args:
        table: Seconds [(n, k), m], clean.
        datasheet: The rates of the roofline.
        source: Where the table comes from.
    """
    shapes = shapes_within(table)
    folds = folds_of(shapes)
    parts = [
        _fitted(table, [shape for shape in shapes if folds[shape] != fold], datasheet, source) for fold in range(FOLDS)
    ]
    judged = [_judged(parts[folds[shape]], table, shape, datasheet) for shape in shapes]
    measured, predicted = (np.concatenate(column) for column in zip(*judged, strict=True))
    found: dict[str, Any] = errors(measured, predicted)
    return replace(_fitted(table, shapes, datasheet, source), **found)


def _fitted(table: pd.DataFrame, shapes: Sequence[tuple[int, int]], datasheet: Hardware, source: str) -> MatrixProduct:
    logs = np.log([_shares(table.T[shape], *shape, datasheet) for shape in shapes])
    weights = np.array([_weights(*shape) for shape in shapes])
    held = HOLD * np.eye(weights.shape[1])
    means = np.tile(logs.mean(axis=0), (len(held), 1))
    nodes, *_ = np.linalg.lstsq(np.vstack([weights, held]), np.vstack([logs, HOLD * means]), rcond=None)
    share = np.minimum(np.exp(nodes), 1.0).reshape(len(OUTPUTS), len(INPUTS), len(TOKENS))
    return MatrixProduct(
        source=source,
        tokens=TOKENS,
        outputs=OUTPUTS,
        inputs=INPUTS,
        share=[[rounded(row) for row in rows] for rows in share],
    )


def folds_of(shapes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the fold of each matrix: diagonals of the table of all n and k, so that none loses a whole row of it."""
    outputs, inputs = (sorted(set(places)) for places in zip(*shapes, strict=True))
    return {(n, k): (outputs.index(n) + inputs.index(k)) % FOLDS for n, k in shapes}


def shapes_within(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Return the matrices (n, k) of a table that lie within the grid."""
    shapes = [(int(n), int(k)) for n, k in table.index]
    return [(n, k) for n, k in shapes if OUTPUTS[0] <= n <= OUTPUTS[-1] and INPUTS[0] <= k <= INPUTS[-1]]


def _weights(outputs: int, inputs: int) -> Array:
    """Return what each node of the grid counts for a matrix [nodes]."""
    return np.asarray(np.outer(_between(OUTPUTS, outputs), _between(INPUTS, inputs)).ravel())


def _between(axis: Sequence[int], place: int) -> Array:
    known = np.log(np.array(axis, dtype=np.float64))
    return np.array([np.interp(np.log(place), known, row) for row in np.eye(len(axis))])


def _shares(row: pd.Series, outputs: int, inputs: int, datasheet: Hardware) -> Array:
    known = row.dropna()
    tokens = np.array(TOKENS, dtype=np.float64)
    seconds = np.interp(tokens, known.index.to_numpy(dtype=np.float64), known.to_numpy(dtype=np.float64))
    roofline = roofline_seconds(tokens, outputs, inputs, datasheet.peak_flops, datasheet.memory_bandwidth)
    return np.asarray(np.minimum(roofline / seconds, 1.0))


def _judged(
    made: MatrixProduct, table: pd.DataFrame, shape: tuple[int, int], datasheet: Hardware
) -> tuple[Array, Array]:
    """Return measured and predicted seconds of one matrix."""
    row = table.T[shape].dropna()
    row = row[row.index <= made.tokens[-1]]
    seconds = made.seconds(*shape, datasheet.peak_flops, datasheet.memory_bandwidth)
    predicted = np.interp(row.index.to_numpy(dtype=np.float64), made.tokens, seconds)
    return row.to_numpy(dtype=np.float64), predicted
