"""The engine: a policy and a ledger, driven on simulated time."""
