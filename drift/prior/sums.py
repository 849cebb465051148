"""Sums over one whole parameter in float32. A CPU adds them up in few running sums, which over the experts of a layer
(4·10⁸ elements in one tensor) are off by 0.5 % in torch's dot product and by 25 % in its norm; so there they are taken
a stretch at a time. A GPU adds in a tree."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

STRETCH = 1 << 17
"""Elements summed at a time on a CPU."""


def dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of tensors of one shape and any float dtype; float32, no dimension, on their device."""
    return torch.stack([torch.dot(x.float(), y.float()) for x, y in _stretches(a, b)]).sum()


def square(a: Tensor) -> Tensor:
    """‖a‖² of a tensor of any float dtype; float32, no dimension, on its device."""
    wide = torch.promote_types(a.dtype, torch.float32)
    norms = [torch.linalg.vector_norm(x, dtype=wide) for (x,) in _stretches(a)]
    return torch.stack(norms).square().sum().float()


def _stretches(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    elements = STRETCH if tensors[0].device.type == "cpu" else max(1, tensors[0].numel())
    return zip(*(tensor.flatten().split(elements) for tensor in tensors), strict=True)
