"""What is made of task vectors: pure functions over stretches of one tensor, in float32.

φ_VL: the multimodal model's text decoder; φ_reason: the text expert; φ_base: the model both come from.
t = φ − φ_base is a task vector; λ, w its weight.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear(vlm: Tensor, expert: Tensor, weights: tuple[float, float]) -> Tensor:
    """λ₁ φ_VL + λ₂ φ_reason: BR2V's merge, also that of Layer Swap in the layers it swaps."""
    return weights[0] * vlm + weights[1] * expert


def task_arithmetic(vlm: Tensor, expert: Tensor, base: Tensor, weights: tuple[float, float]) -> Tensor:
    """φ_base + λ₁ t₁ + λ₂ t₂ (arXiv 2212.04089), gathered by model: λ = (1, 0) is φ_VL bit for bit."""
    return weights[0] * vlm + weights[1] * expert + (1.0 - weights[0] - weights[1]) * base


def elect_signs(tasks: Tensor) -> Tensor:
    """Which elements agree with the sign of the unweighted sum over tasks (dimension 0); zeros agree with none."""
    elected = torch.where(tasks.sum(dim=0) >= 0, 1, -1)
    return tasks.sign() == elected


def disjoint_sum(tasks: Tensor, agreeing: Tensor, weights: tuple[float, float]) -> Tensor:
    """Σ wᵢ tᵢ over the agreeing tasks / max(1, number agreeing) (TIES, step 3)."""
    weighted = tasks * torch.tensor(weights).view(-1, *[1] * (tasks.dim() - 1))
    return (weighted * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1.0)
