"""task=capacity: the highest arrival rate that meets an SLO."""
