"""What a run achieved: latency, throughput, and how much of the GPU's work was idle.

Names follow vLLM's `bench serve` where it has them; fractions are in [0, 1]; a value that is not defined is None.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from policies.ledger.ledger import Ledger
from policies.policy import Traits
from sim.cost.device import CostModel, decode_kv
from sim.cost.work import Work
from sim.engine.iteration_log import Fields, Slice, columns_of, work_of
from sim.engine.request_log import RequestLog
from sim.metrics.breakdown import Breakdown, split
from sim.metrics.busy import BusyTime
from sim.metrics.idle import STALL, IdleTime, IdleTokens, Losses
from sim.metrics.intertoken import InterTokenLatency
from sim.metrics.keeping_up import lag
from sim.metrics.request_columns import Columns
from sim.metrics.saturation import Saturation
from sim.metrics.slo import SLO
from sim.metrics.warm_up import WarmUp
from workloads.requests import Requests

Array = npt.NDArray[np.float64]
Value = float | int | bool | None
Summary = dict[str, Value]

_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


class Metrics:
    """A log sink that sums a run up, in memory that grows with the requests but not with the iterations."""

    def __init__(
        self,
        cost: CostModel,
        traits: Traits,
        warm_up: WarmUp | None = None,
        breakdown: Breakdown | None = None,
    ) -> None:
        """Begin a run.

        Args:
            cost: What iterations cost; idle time is a difference of costs.
            traits: Of the policy: whether answers leave with their batch, and whether its second lane has a device of
                its own. Each device may be several GPUs that share layers.
            warm_up: What is not counted; None: everything is.
            breakdown: What splits the requests' time; None: nothing.
        """
        self._cost = cost
        self._traits = traits
        self._devices = traits.gpus
        self._gpus = self._devices * cost.hardware.gpus
        self._busy = BusyTime()
        self._warm_up = warm_up or WarmUp()
        self._breakdown = breakdown
        self._gaps = InterTokenLatency(self._warm_up.begin_s)
        self._saturation = Saturation()
        self._idle_time = IdleTime(cost)
        self._idle_tokens = IdleTokens()
        self._end_s = 0.0
        self._kv_peak = 0
        self._flops = self._bytes = 0.0
        self._beyond = 0
        self._iterations = self._prefill_iterations = self._decode_steps = self._row_steps = 0
        self._kv_padding = self._kv_read = self._kv_host = self._kv_copied = 0

    def __call__(self, records: Slice) -> None:
        """Add a slice of the log."""
        columns = columns_of(records)
        for part in (self._gaps, self._saturation):
            part(columns)
        work = mean_work(columns)
        losses = self._idle_time.losses(columns, work)
        if self._breakdown:
            self._breakdown.add(columns, losses)
        if self._warm_up.requests:
            counted = columns["start_s"] >= self._warm_up.begin_s()
            columns = {name: values[counted] for name, values in columns.items()}
            work, losses = mean_work(columns), losses.of(counted)
        if len(columns["start_s"]):
            self._add(columns, work, losses)

    def _add(self, columns: Fields, work: Work, losses: Losses) -> None:
        """Add records that count."""
        self._busy(columns)
        steps = columns["steps"].astype(np.float64)
        self._idle_time.add(columns, work, losses)
        self._idle_tokens.add(work, steps)
        self._flops += float((self._cost.useful_flops(work) * steps).sum())
        self._bytes += float((self._cost.moved_bytes(work) * steps).sum())
        self._beyond += round((self._cost.beyond(work) * steps).sum())
        self._end_s = max(self._end_s, float((columns["start_s"] + columns["duration_s"]).max()))
        self._kv_peak = max(self._kv_peak, int(columns["kv_tokens"].max()))
        self._count(columns, work, steps)

    def _count(self, records: Fields, work: Any, steps: Array) -> None:
        self._iterations += int(records["steps"].sum())
        self._prefill_iterations += int((records["prefill_rows"] > 0).sum())
        self._decode_steps += int(records["steps"][records["rows"] > 0].sum())
        self._row_steps += round((work.rows * steps).sum())
        self._kv_padding += round((work.kv_padding * steps).sum())
        self._kv_read += round((decode_kv(work) * steps).sum())
        self._kv_host += round((work.kv_host * steps).sum())
        self._kv_copied += round((work.kv_copied * steps).sum())

    def summary(
        self,
        requests: Requests,
        answers: RequestLog,
        everyone: Columns,
        slo: SLO,
        ledger: Ledger | None = None,
        link_busy_s: float = 0.0,
    ) -> Summary:
        """Return the metrics of a run that is over.

        Args:
            requests: The workload.
            answers: What became of it.
            everyone: The same as columns, see `sim.metrics.request_columns`, with the parts of their time if split.
            slo: What goodput is judged by.
            ledger: What saw more than the log shows: KV memory within stretches, and what a prefix cache found.
            link_busy_s: How long KV was on the link between two GPUs.

        Latencies are those of completed requests. The makespan `duration_s` runs from 0 (or the end of the warm-up, of
        which nothing is counted) to the end of the last iteration; the saturated part of it ends where the drain begins
        (see `Window`), and without a newcomer after the start there is none. Fractions of idle time are of busy time,
        those of idle tokens of computed slots; `mean_batch_rows` is the mean of live rows over decode steps; MFU and
        MBU count useful FLOPs and moved bytes over busy GPU time at datasheet rates; `kv_peak_tokens` is the largest of
        the values logged as iterations began, the first of each stretch. `slo_attainment` is a share of all requests,
        rejected ones included.
        `beyond_calibration` is the share of iterations larger than any that the hardware was measured with; None of a
        datasheet.
        """
        begin_s = self._warm_up.begin_s()
        span_s = max(self._end_s - begin_s, 0.0)
        columns = {name: values[self._warm_up.requests :] for name, values in everyone.items()}
        before = self._saturation.tokens_before(begin_s, requests, answers)
        rates = self._throughput(columns, everyone, before, begin_s, span_s)
        return {
            **rates,
            **self._lag(columns, rates["request_throughput"], requests.concurrency is None),
            **self._saturated(requests, answers, begin_s, span_s),
            **self._goodput(columns, slo, span_s),
            **self._latency(columns, answers),
            **(split(columns) if self._breakdown else {}),
            **self._idle(),
            **self._gpu(span_s, ledger.stretch_peak if ledger else 0),
            "iterations": self._iterations,
            "decode_steps": self._decode_steps,
            "prefill_iterations": self._prefill_iterations,
            "mean_batch_rows": _ratio(self._row_steps, self._decode_steps),
            "preemptions": int(columns["preemptions"].sum()),
            "beyond_calibration": _ratio(self._beyond, self._iterations) if self._cost.has_range else None,
            **({"link_busy_fraction": link_busy_s / span_s} if self._traits.lanes == "separate" and span_s else {}),
            **(_prefix_hits(ledger) if ledger and self._traits.finds_prefixes else {}),
        }

    def _throughput(self, columns: Columns, everyone: Columns, before: Array, begin_s: float, span_s: float) -> Summary:
        """Rates over what counts, to which a request adds the tokens that it had not had `before` [all requests]."""
        finished = columns["status"] == "finished"
        completed, rejected = int(finished.sum()), int((columns["status"] == "rejected").sum())
        done = everyone["status"] == "finished"
        total = everyone["output_tokens"][done]
        generated = total - before[done]
        served, output = float((generated / total).sum()), round(generated.sum())
        prompt = int(everyone["prompt_tokens"][done & (everyone["first_scheduled_s"] >= begin_s)].sum())
        rates = {
            "request_throughput": _ratio(served, span_s),
            "output_throughput": _ratio(output, span_s),
            "total_token_throughput": _ratio(prompt + output, span_s),
            "request_throughput_per_gpu": _ratio(served, span_s * self._gpus),
            "output_throughput_per_gpu": _ratio(output, span_s * self._gpus),
        }
        return {
            "completed": completed,
            "rejected": rejected,
            "unfinished": len(finished) - completed - rejected,
            "duration_s": span_s,
            "total_input_tokens": prompt,
            "total_output_tokens": output,
            **rates,
        }

    def _lag(self, columns: Columns, throughput: float | None, by_the_clock: bool) -> Summary:
        behind = lag(columns, self._end_s, throughput, by_the_clock)
        return {
            "offered_request_rate": behind.offered_rate,
            "drain_s": behind.drain_s,
            "latency_growth": behind.growth,
            "falls_behind": behind.falls_behind,
        }

    def _saturated(self, requests: Requests, answers: RequestLog, begin_s: float, span_s: float) -> Summary:
        window = self._saturation.window(requests, answers, begin_s)
        return {
            "saturated": window.saturated(span_s),
            "saturated_duration_s": window.duration_s,
            "saturated_request_throughput": _ratio(window.requests, window.duration_s),
            "saturated_output_throughput": _ratio(window.output_tokens, window.duration_s),
            "saturated_output_throughput_per_gpu": _ratio(window.output_tokens, window.duration_s * self._gpus),
            "waiting_time_fraction": window.waiting_share,
        }

    def _goodput(self, columns: Columns, slo: SLO, span_s: float) -> Summary:
        met = slo.met(columns, self._traits.release_with_batch)
        if met is None:
            return {"request_goodput": None, "slo_attainment": None}
        good = int(met.sum())
        return {"request_goodput": _ratio(good, span_s), "slo_attainment": _ratio(good, len(met))}

    def _latency(self, columns: Columns, answers: RequestLog) -> Summary:
        finished = columns["status"] == "finished"
        summary: Summary = {}
        for name, column in (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("e2el", "e2e_s"), ("queue", "queue_s")):
            summary |= _spread(f"{name}_ms", columns[column][finished] * 1e3)
        summary |= _spread("normalized_latency_s", columns["normalized_latency_s"][finished])
        gaps = self._gaps.finished(answers)
        if self._traits.release_with_batch or not gaps.count:
            return summary | _named("itl_ms", None)
        seconds = [gaps.total / gaps.count, *gaps.quantiles(tuple(_QUANTILES.values()))]
        return summary | _named("itl_ms", [value * 1e3 for value in seconds])

    def _idle(self) -> Summary:
        tokens, time = self._idle_tokens, self._idle_time
        total_s = sum(time.seconds.values())
        shares = {"idle_token_fraction": _ratio(sum(tokens.idle.values()), tokens.slots)}
        shares |= {f"idle_token_fraction_{cause}": _ratio(idle, tokens.slots) for cause, idle in tokens.idle.items()}
        shares["idle_time_fraction"] = _ratio(total_s, self._busy_s)
        shares |= {f"idle_time_fraction_{cause}": _ratio(lost, self._busy_s) for cause, lost in time.seconds.items()}
        shares["wasted_time_fraction"] = _ratio(total_s - time.seconds[STALL], self._busy_s)
        return {**shares, "kv_padding_fraction": _ratio(self._kv_padding, self._kv_read)}

    @property
    def _busy_s(self) -> float:
        """GPU seconds: of the union of both lanes on one GPU, of each on two."""
        return self._busy.seconds if self._devices == 1 else self._idle_time.lane_s

    def _gpu(self, span_s: float, stretch_peak: int) -> Summary:
        busy_s, hardware = self._busy_s, self._cost.hardware
        return {
            "gpus": self._gpus,
            "busy_s": busy_s,
            "gpu_busy_fraction": _ratio(busy_s, span_s * self._devices),
            "mfu": _ratio(self._flops, busy_s * hardware.gpus * hardware.peak_flops),
            "mbu": _ratio(self._bytes, busy_s * hardware.gpus * hardware.memory_bandwidth),
            "kv_peak_tokens": max(self._kv_peak, stretch_peak),
            "kv_host_tokens": self._kv_host,
            "kv_copied_tokens": self._kv_copied,
        }


def mean_work(records: Slice | Fields) -> Work:
    """Return the mean iteration of each record, every field float64 [n]: what a cost linear in KV is exact for."""
    later: Any = (records["steps"] - 1) / 2
    work: Any = Work._make(np.asarray(field, dtype=np.float64) for field in work_of(records))
    fixed = records["fixed_window"]
    mean: Work = work._replace(
        kv_read=work.kv_read + later * work.rows,
        kv_held=work.kv_held + later * work.held_rows * (1 - fixed),
        kv_padding=work.kv_padding - later * work.rows * fixed,
    )
    return mean


def _prefix_hits(ledger: Ledger) -> Summary:
    admitted, readmitted = ledger.chunks.admitted, ledger.chunks.readmitted
    return {
        "prefix_hit_tokens": admitted.found,
        "prefix_hit_rate": admitted.rate,
        "readmitted_hit_tokens": readmitted.found,
        "readmitted_hit_rate": readmitted.rate,
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _spread(name: str, values: Array) -> Summary:
    """Mean, median, p90 and p99 of the values that are defined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return _named(name, None)
    quantiles = np.quantile(defined, list(_QUANTILES.values()))
    return _named(name, [float(defined.mean()), *quantiles.tolist()])


def _named(name: str, values: list[float] | None) -> Summary:
    keys = [f"{statistic}_{name}" for statistic in ("mean", *_QUANTILES)]
    return dict.fromkeys(keys) if values is None else dict(zip(keys, values, strict=True))
