"""Kernels of a GPU are interpreted where there is none; Triton asks as it is imported, whoever does that first."""

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
