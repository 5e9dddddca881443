"""From tables of measured kernels to hardware files: `python -m sim.calibration DATA_FOLDER`."""
