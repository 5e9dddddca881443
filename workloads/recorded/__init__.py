"""What was recorded: traces, and runs of real servers."""
