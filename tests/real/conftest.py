"""Tiny models are quickest on one thread; kernels of a GPU are interpreted where there is none."""

import os

import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
