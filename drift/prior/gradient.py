"""The guided gradient g~ = g + α·scale(g, Δ): the formulas, and nothing else (DRIFT, arXiv 2510.15050, section 3).

Symbols: g the gradient of one parameter tensor, Δ its prior, φ the multimodal model's tensor, α the strength
(negative pulls towards the expert, since the optimizer subtracts g~). Every scale is a multiple of Δ, so one
number per tensor says it all: g~ = g + c·Δ. Norms and cosine run over one whole parameter tensor.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["absolute", "grad_norm", "adaptive", "adaptive_descent"]


def cosine(grad_norm: Tensor, delta_norm: Tensor, dot: Tensor) -> Tensor:
    """cos(g, Δ) = ⟨g, Δ⟩ / (‖g‖·‖Δ‖), 0 where either norm is 0. Any shape, float32."""
    product = grad_norm * delta_norm
    return torch.where(product > 0, dot / product, 0.0).clamp(-1.0, 1.0)


def effective_alpha(scale: Scale, alpha: float | Tensor, cos: Tensor) -> Tensor:
    """α′ of the paper's "Adaptive α": α·(1 + cos(g, Δ))/2; plain α for the other scales.

    `adaptive` is as published: it pushes most where the gradient, not the descent direction −g, points along Δ.
    `adaptive_descent` is the other sign, α·(1 − cos(g, Δ))/2, an ablation.
    """
    if scale == "adaptive":
        return alpha * (1 + cos) / 2
    if scale == "adaptive_descent":
        return alpha * (1 - cos) / 2
    return alpha * torch.ones_like(cos)


def coefficient(
    scale: Scale,
    alpha: float | Tensor,
    grad_norm: Tensor,
    delta_norm: Tensor,
    dot: Tensor,
    *,
    rescale_to: Tensor | None = None,
) -> Tensor:
    """The number c of g~ = g + c·Δ, for each of K tensors.

        absolute                    c = α                       (·‖φ‖/‖Δ‖ with rescale_to = ‖φ‖, as the released code)
        grad_norm                   c = α ·‖g‖/‖Δ‖
        adaptive, adaptive_descent  c = α′·‖g‖/‖Δ‖

    ``grad_norm`` ‖g‖, ``delta_norm`` ‖Δ‖ and ``dot`` ⟨g, Δ⟩ are float32 of shape (K,); so is the result.
    Where g = 0, Δ = 0 or g is not finite, c = 0: the gradient stays as it is.
    """
    strength = effective_alpha(scale, alpha, cosine(grad_norm, delta_norm, dot))
    if scale != "absolute":
        strength = strength * grad_norm / delta_norm
    elif rescale_to is not None:
        strength = strength * rescale_to / delta_norm
    usable = (delta_norm > 0) & (grad_norm > 0) & torch.isfinite(grad_norm) & torch.isfinite(dot)
    return torch.where(usable, strength, 0.0)


def add_bias_(grad: Tensor, delta: Tensor, c: Tensor) -> None:
    """g ← g + c·Δ in place. ``grad`` and ``delta`` share a shape, any float dtype; ``c`` is a float32 scalar.

    The sum is taken in float32, whatever the dtypes; for a float32 gradient it needs no copy of it.
    """
    if grad.dtype == torch.float32:
        grad.addcmul_(delta.float(), c)
    else:
        grad.copy_(torch.addcmul(grad.float(), delta.float(), c))


def guide(scale: Scale, alpha: float, grad: Tensor, delta: Tensor, *, rescale_to: Tensor | None = None) -> Tensor:
    """g~ for one tensor, out of place: the equation as one call. Any float dtype, any shape; dtype of ``grad``.

    Norms and the dot product are taken in float32. α = 0 returns ``grad`` bit for bit.
    """
    guided = grad.clone()
    if alpha != 0:
        grad32, delta32 = grad.float().flatten(), delta.float().flatten()
        dot = torch.dot(grad32, delta32)
        c = coefficient(scale, alpha, grad32.norm(), delta32.norm(), dot, rescale_to=rescale_to)
        add_bias_(guided, delta, c)
    return guided
