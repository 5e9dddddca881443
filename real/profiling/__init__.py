"""task=profile: from measured iterations to a hardware file."""
