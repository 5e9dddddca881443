"""What a measured file says of what was measured, held against what was simulated."""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sim.cost.model import Model
from workloads.recorded.measured import MeasuredRun
from workloads.recorded.units import NAMES

FAR_APART = 150.0
"""No prediction is off by such a factor: a time is in another unit."""

UNITS = "measured times are "
"""How a sentence on their unit begins."""

_LEFT_OUT = re.compile(r"^meta[-_ ]|[-_ ](hf|instruct|chat|it|base|v\d+(\.\d+)?)(?=[-_ ]|$)")
"""Parts of a model's name that say nothing of its dimensions: its owner, its training, its file format."""


def facts_that_differ(run: MeasuredRun, model: Model, gpus: int, kept_apart: bool) -> Iterator[str]:
    """Yield a sentence for everything that the file says and that was simulated otherwise.

    Args:
        run: The measured run.
        model: The model that is simulated.
        gpus: How many GPUs share it.
        kept_apart: Whether its times are taken for the server's own.
    """
    if run.model is not None and not same_model(run.model, model):
        yield f"{run.name} says that its model is {run.model}, and {model.name} is simulated: choose model="
    if run.gpus is not None and run.gpus != gpus:
        yield (
            f"{run.name} says that its server had {run.gpus} {'GPU' if run.gpus == 1 else 'GPUs'}, and {gpus} "
            f"{'is' if gpus == 1 else 'are'} simulated: give tensor_parallel={run.gpus}"
        )
    if kept_apart and run.client is not None:
        yield f"overlay.times=server, although {run.client} takes the times of a client: the frontend is left out"


def same_model(said: str, model: Model) -> bool:
    """Return whether a file may mean this model: by its name in results, or by the path of its config.json."""
    names = {model.name, *(part for part in re.split(r"[\s\\]+|/config\.json", model.source) if part)}
    return _plain(said) in {_plain(name) for name in names}


def _plain(name: str) -> str:
    """Return a model's name without its owner, its training and its punctuation."""
    own = name.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]", "", _LEFT_OUT.sub("", own))


def unit_that_differs(measured: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> str | None:
    """Return a sentence if measured and predicted times are so far apart that one is in another unit.

    Args:
        measured: Seconds of each request, float64 [n]; NaN where not known.
        predicted: The same, simulated.
    """
    known = np.isfinite(measured) & np.isfinite(predicted) & (measured > 0) & (predicted > 0)
    if not known.any():
        return None
    ratio = float(np.median(measured[known] / predicted[known]))
    factor = max(ratio, 1 / ratio)
    if factor < FAR_APART:
        return None
    unit = NAMES[("ms", "us", "ns")[min(max(round(np.log10(factor) / 3), 1), 3) - 1]]
    than = "larger" if ratio > 1 else "smaller"
    of = f"are they in {unit}?" if ratio > 1 else f"were they divided as if they had been {unit}?"
    return f"{UNITS}{factor:,.0f} times {than} than the predicted ones: they are read as seconds; {of}"
