"""From tables of measured kernels, as their projects publish them, to the tables of a hardware file."""
