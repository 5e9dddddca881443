"""What arrives: requests, arrival processes, length distributions, trace readers and built-in statistics."""

from workloads.lengths import Fixed, LengthDistribution, LogNormal, Uniform, Zipf
from workloads.recorded.traces import Azure, BurstGPT, Frame, Mooncake, QwenBailian, Trace
from workloads.requests import Requests, Workload
from workloads.sharegpt import ShareGPT
from workloads.synthetic import Synthetic

__all__ = [
    "Azure",
    "BurstGPT",
    "Fixed",
    "Frame",
    "LengthDistribution",
    "LogNormal",
    "Mooncake",
    "QwenBailian",
    "Requests",
    "ShareGPT",
    "Synthetic",
    "Trace",
    "Uniform",
    "Workload",
    "Zipf",
]
