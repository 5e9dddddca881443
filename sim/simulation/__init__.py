"""One policy on one workload, simulated; and what must be known beside the result."""
