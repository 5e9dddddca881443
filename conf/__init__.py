"""The configuration tree of the command lines: YAML files only."""
