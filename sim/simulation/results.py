"""What policies achieved, as metrics, arrays and DataFrames."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.policy import Policy
from sim.metrics.metrics import Summary
from sim.metrics.occupancy import Series
from sim.metrics.request_columns import Columns

if TYPE_CHECKING:
    from pandas import DataFrame

HEADLINES = (
    "saturated",
    "request_throughput",
    "output_throughput",
    "mean_ttft_ms",
    "mean_tpot_ms",
    "p99_e2el_ms",
    "idle_time_fraction",
    "wasted_time_fraction",
    "gpu_busy_fraction",
    "kv_peak_tokens",
)
"""What a notebook shows of results; their `summary` has every metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What one policy achieved.

    Attributes:
        policy: The policy.
        summary: Metrics by name, see `sim.metrics.metrics`.
        columns: An array [n] of each column of `requests.parquet`, see `sim.metrics.request_columns`.
        occupancy: What the batch and the queue held over time.
    """

    policy: Policy
    summary: Summary
    columns: Columns
    occupancy: Series

    @property
    def requests(self) -> "DataFrame":
        """A DataFrame with one row per request: the columns of `requests.parquet`, NaN where undefined."""
        import pandas as pd

        return pd.DataFrame(self.columns).set_index("request_id")


class Results(dict[str, Result]):
    """The results of several policies on the same requests, by name, in the order in which they were given."""

    @property
    def summary(self) -> "DataFrame":
        """A DataFrame with one row per policy and one column per metric of `sim.metrics.metrics`."""
        import pandas as pd

        frame = pd.DataFrame([result.summary for result in self.values()], index=list(self))
        frame.index.name = "policy"
        return frame

    def __repr__(self) -> str:
        """Show the headline metrics as text."""
        return str(self._headlines().to_string())

    def _repr_html_(self) -> str:
        """Show the headline metrics in a notebook."""
        return str(self._headlines().to_html())

    def _headlines(self) -> "DataFrame":
        """Return a row per headline metric that any policy has, and a column per policy, as text."""
        summary = self.summary
        defined = [name for name in HEADLINES if summary[name].notna().any()]
        return summary[defined].T.map(short)


def short(value: bool | float | None) -> str:
    """Return a metric as a table shows it: three significant digits, thousands whole, a dash for none."""
    if value is None or value != value:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
