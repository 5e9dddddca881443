"""The table of matrix products."""

from collections.abc import Sequence
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
INPUTS = (512, 1024, 2048, 4096, 8192, 16384, 65536)
HELD_OUT = 3
"""One of so many matrices is kept for judging."""
HOLD = 0.05
"""Weight of the mean share against a matrix that was measured."""


def clean_products(versions: pd.DataFrame) -> pd.DataFrame:
    """Return seconds [(n, k), m] of the typical version, never falling in m."""
    table = typical(versions).unstack("m").sort_index().sort_index(axis=1)
    for shape, row in table.iterrows():
        known = row.notna()
        table.loc[shape, known] = ascending(row[known].to_numpy(dtype=np.float64))
    return table


def fit_products(table: pd.DataFrame, datasheet: Hardware, source: str) -> MatrixProduct:
    """Return the shares of the roofline that meet two thirds of the matrices best, judged on the others.

    Least squares of log(share), each matrix between its neighbours on the grid as `MatrixProduct` interpolates; what
    they leave open is held by the mean share.

    Args:
        table: Seconds [(n, k), m], clean.
        datasheet: The rates of the roofline.
        source: Where the table comes from.
    """
    shapes = [shape for place, shape in enumerate(shapes_within(table)) if place % HELD_OUT]
    logs = np.log([_shares(table.T[shape], *shape, datasheet) for shape in shapes])
    weights = np.array([_weights(*shape) for shape in shapes])
    held = HOLD * np.eye(weights.shape[1])
    means = np.tile(logs.mean(axis=0), (len(held), 1))
    nodes, *_ = np.linalg.lstsq(np.vstack([weights, held]), np.vstack([logs, HOLD * means]), rcond=None)
    share = np.minimum(np.exp(nodes), 1.0).reshape(len(OUTPUTS), len(INPUTS), len(TOKENS))
    made = MatrixProduct(
        source=source,
        tokens=TOKENS,
        outputs=OUTPUTS,
        inputs=INPUTS,
        share=[[rounded(row) for row in rows] for rows in share],
    )
    found: dict[str, Any] = errors(*held_out_products(made, table, datasheet))
    return replace(made, **found)


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


def held_out_products(made: MatrixProduct, table: pd.DataFrame, datasheet: Hardware) -> tuple[Array, Array]:
    """Return measured and predicted seconds of the matrices that the table is not made of."""
    measured, predicted = [], []
    for shape in shapes_within(table)[::HELD_OUT]:
        row = table.T[shape].dropna()
        row = row[row.index <= made.tokens[-1]]
        seconds = made.seconds(*shape, datasheet.peak_flops, datasheet.memory_bandwidth)
        predicted.append(np.interp(row.index.to_numpy(dtype=np.float64), made.tokens, seconds))
        measured.append(row.to_numpy(dtype=np.float64))
    return np.concatenate(measured), np.concatenate(predicted)
