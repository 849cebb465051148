"""PyTorch for the CPU beside a torchvision from PyPI, which is built for CUDA."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from typing import Any

_TORCHVISION_OPERATORS: list[Any] = []  # keeps the library object alive, see below


def allow_cuda_torchvision_on_cpu() -> None:
    """Make a CUDA build of torchvision importable beside CPU torch, once, and only if needed.

    PyPI's torchvision is a CUDA build; beside a CPU build of torch its import stops at two operators
    that were never registered. transformers' Qwen2.5-VL processor imports torchvision but calls neither
    operator, so their schemas are enough. Does nothing where torchvision is absent, already imported
    or of a matching build.
    """
    import torch

    if "torchvision" in sys.modules or _TORCHVISION_OPERATORS or torch.version.cuda:
        return
    if importlib.util.find_spec("torchvision") is None or "+cpu" in importlib.metadata.version("torchvision"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _TORCHVISION_OPERATORS.append(library)
