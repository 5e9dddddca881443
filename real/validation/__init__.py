"""task=validate: predictions beside what was measured."""
