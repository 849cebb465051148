"""Where training runs: in this process, or in one process per GPU of this machine."""

from __future__ import annotations

import os

import torch


def prepare_deepspeed() -> None:
    """Start the process group through DeepSpeed, from torchrun's environment variables.

    On a machine without a GPU DeepSpeed would first compile an operator for shared memory, for minutes and only to
    speed up its all-reduce: it is told that there is none.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
