"""Everything that is measured on one GPU, in one go: `python -m benchmarks.gpu`, see docs/gpu.md."""
