"""What to run next: batching policies and their state machine, without clock, random numbers or I/O."""
