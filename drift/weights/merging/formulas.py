"""What is made of task vectors: pure functions over stretches of one tensor, in float32.

φ_VL: the multimodal model's text decoder; φ_reason: the text expert; φ_base: the model both come from.
t = φ − φ_base is a task vector; λ, w its weight.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

COLLINEAR = 0.9995
"""Above this |cosine| the arc between two tensors is a line, and its formula 0/0."""


def linear(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ λᵢ φᵢ: BR2V's merge, also that of Layer Swap in the layers it swaps."""
    first, *rest = (weight * model for model, weight in zip(models, weights, strict=True))
    return functools.reduce(torch.add, rest, first)


def task_arithmetic(models: Sequence[Tensor], base: Tensor, weights: Sequence[float]) -> Tensor:
    """φ_base + Σ λᵢ tᵢ (arXiv 2212.04089), gathered by model: λ = (1, 0) is φ_VL bit for bit."""
    return linear([*models, base], [*weights, 1.0 - math.fsum(weights)])


def slerp_factors(vlm_norm: float, expert_norm: float, dot: float, t: float) -> tuple[float, float]:
    """Factors of φ_VL and φ_reason in their spherical interpolation at t, from ‖φ_VL‖, ‖φ_reason‖ and ⟨φ_VL, φ_reason⟩.

    sin((1 − t)θ)/sin θ and sin(tθ)/sin θ, θ the angle between the two tensors (Shoemake, SIGGRAPH 1985); 1 − t and t
    where |cos θ| > 0.9995, as mergekit has it, or where a tensor is 0.
    """
    cosine = dot / (vlm_norm * expert_norm) if vlm_norm and expert_norm else 1.0
    if abs(cosine) > COLLINEAR:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def elect_signs(tasks: Tensor) -> Tensor:
    """Which elements agree with the sign of the unweighted sum over tasks (dimension 0); zeros agree with none."""
    elected = torch.where(tasks.sum(dim=0) >= 0, 1, -1)
    return tasks.sign() == elected


def disjoint_sum(tasks: Tensor, agreeing: Tensor, weights: Sequence[float]) -> Tensor:
    """Σ wᵢ tᵢ over the agreeing tasks / max(1, number agreeing) (TIES, step 3)."""
    weighted = tasks * torch.tensor(weights).view(-1, *[1] * (tasks.dim() - 1))
    return (weighted * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1.0)
