"""replications=N: the comparison repeated, with confidence intervals."""
