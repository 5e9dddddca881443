"""Where classes lay before version 0.2: files of users and earlier results name them so. To go with version 0.3."""

MOVED = {
    "sim.calibrated.Calibrated": "sim.cost.kernels.calibrated.Calibrated",
    "sim.engine_constants.EngineConstants": "sim.cost.engine_constants.EngineConstants",
    "sim.hardware.Hardware": "sim.cost.datasheet.Hardware",
    "sim.kernels.AllReduce": "sim.cost.kernels.tables.AllReduce",
    "sim.kernels.ChunkAttention": "sim.cost.kernels.tables.ChunkAttention",
    "sim.kernels.DecodeAttention": "sim.cost.kernels.tables.DecodeAttention",
    "sim.kernels.Elementwise": "sim.cost.kernels.tables.Elementwise",
    "sim.kernels.MatrixProduct": "sim.cost.kernels.tables.MatrixProduct",
    "sim.kernels.PromptAttention": "sim.cost.kernels.tables.PromptAttention",
    "sim.model.Model": "sim.cost.model.Model",
    "sim.pretrained.Pretrained": "sim.config.pretrained.Pretrained",
    "sim.profile.Fit": "sim.cost.profile.Fit",
    "sim.profile.LayoutCost": "sim.cost.profile.LayoutCost",
    "sim.profile.Profile": "sim.cost.profile.Profile",
    "sim.profile.Term": "sim.cost.terms.Term",
    "workloads.measured.Measured": "workloads.recorded.measured.Measured",
    "workloads.traces.Azure": "workloads.recorded.traces.Azure",
    "workloads.traces.BurstGPT": "workloads.recorded.traces.BurstGPT",
    "workloads.traces.Mooncake": "workloads.recorded.traces.Mooncake",
    "workloads.traces.Trace": "workloads.recorded.traces.Trace",
}
"""The `_target_` that a file may still hold, and the class that it means."""
