"""The released code's way to bias a gradient, written again from its description, as the peer to measure against.

One tensor hook per parameter. At every backward pass it brings Δ from host memory, takes its norm anew, stops for
the host to look at ‖g‖, and makes several whole temporaries: g − α·(1 + cos(g, Δ))/2 · ‖g‖ · Δ/‖Δ‖ with α = +1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-12


def attach(model: torch.nn.Module, deltas: Mapping[str, Tensor], alpha: float = 1.0) -> list[Any]:
    """Hook every parameter of ``model`` that ``deltas`` (by its name, on the CPU) has a tensor for; the handles."""
    named = dict(model.named_parameters())
    return [named[name].register_hook(_hook(named[name], delta, alpha)) for name, delta in deltas.items()]


def _hook(parameter: Tensor, delta: Tensor, alpha: float) -> Any:
    def hook(grad: Tensor) -> Tensor:
        d = delta.to(device=grad.device, dtype=grad.dtype, non_blocking=True)
        d = d * (parameter.detach().norm() / (d.norm() + EPSILON))  # without effect on this scale, but done
        grad_norm = grad.norm()
        if grad_norm < EPSILON:
            return grad
        d_norm = d.norm()
        cosine = (grad * d).sum() / (grad_norm * d_norm + EPSILON)
        strength = alpha * 0.5 * (cosine + 1.0)
        return grad - strength * grad_norm * d / (d_norm + EPSILON)

    return hook
