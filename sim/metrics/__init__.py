"""What a run is summed up to."""
