"""The prior Δ bound to a model and its optimizer: who applies g~ = g + c·Δ, when, and what it reports.

Symbols: Δ the prior, g the gradient, φ_t the weights at step t, φ_VL those of the original multimodal model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drift import gradient
from drift.checkpoints import match_parameters
from drift.config import PriorConfig
from drift.delta import DeltaFile
from drift.errors import PriorError

logger = logging.getLogger(__name__)

OVERSHOOT = 1.2
"""A projection above this is past the expert; in miniature experiments it ruined both skills."""


@dataclass(frozen=True)
class BindReport:
    """What was bound: every element of Δ exactly once, or `bind` has raised."""

    parameters: int
    elements: int
    bytes: int


class Prior:
    """Biases the gradients of one model during training; see `bind`."""

    def __init__(self, config: PriorConfig, delta: DeltaFile) -> None:
        self.config = config
        self._delta = delta
        self._parameters: list[Tensor] = []
        self._deltas: list[Tensor] = []
        self._delta_norms = torch.empty(0)
        self._vlm_norms = torch.empty(0)
        self._handles: list[Any] = []
        self._guided_this_step = False
        self._warned = False
        self._last: dict[str, Tensor] = {}

    def bind(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> BindReport:
        """Attach to ``model`` and ``optimizer``: from now on every step is guided, without further calls.

        `apply: step` acts in `optimizer.step()` on the accumulated gradient; call `guide()` yourself before
        clipping to have it there (`clip: before`). `apply: backward` acts on each backward pass.
        Raises PriorError if a tensor of Δ has no partner in the model, has another shape, or is frozen.
        """
        named = dict(model.named_parameters())
        pairs = match_parameters({n: tuple(p.shape) for n, p in named.items()}, self._delta.shapes)
        optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for canonical, runtime in pairs.items():
            if id(named[runtime]) not in optimized or not named[runtime].requires_grad:
                raise PriorError(
                    f"{runtime}: Δ has a prior for it, but it is not trained; unfreeze it or narrow `modules`"
                )
            self._add(named[runtime], canonical)
        self._delta_norms = torch.stack([delta.float().norm() for delta in self._deltas])
        self._attach(optimizer)
        return BindReport(
            parameters=len(self._deltas),
            elements=sum(delta.numel() for delta in self._deltas),
            bytes=sum(delta.numel() * delta.element_size() for delta in self._deltas),
        )

    def unbind(self) -> None:
        """Remove every hook and forget the tensors."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._parameters, self._deltas, self._last = [], [], [], {}

    @torch.no_grad()
    def guide(self) -> None:
        """Bias the accumulated gradients once, in place; a second call before `optimizer.step()` does nothing."""
        if self._guided_this_step or self.config.apply != "step":
            return
        self._guided_this_step = True
        alpha = self._alpha()
        if isinstance(alpha, float) and alpha == 0:
            return
        self._bias([(k, p.grad) for k, p in enumerate(self._parameters) if p.grad is not None], alpha)

    @torch.no_grad()
    def projection(self) -> float:
        """⟨φ_t − φ_VL, Δ⟩ / ‖Δ‖² over all guided tensors: 0 at the start, 1 at the expert."""
        return float(self._projection())

    def metrics(self) -> dict[str, float]:
        """Of the last step: cosine cos(g, Δ), effective α, ‖bias‖/‖g‖ over the guided tensors, and the projection."""
        if not self._last:
            return {}
        cos, last = self._last["cos"], self._last
        projection = self.projection()
        if projection > OVERSHOOT and not self._warned:
            self._warned = True
            logger.warning(
                "projection %.2f is past the expert (1.0); lower α, the learning rate or the steps", projection
            )
        return {
            "cos_mean": float(cos.mean()),
            "cos_min": float(cos.min()),
            "cos_max": float(cos.max()),
            "alpha_mean": float(last["alpha"].mean()),
            "prior_ratio": float(last["bias_norm"] / last["grad_norm"]),
            "projection": projection,
        }

    def _add(self, parameter: Tensor, canonical: str) -> None:
        stats = self._delta.stats[canonical]
        delta = self._delta.tensor(canonical).to(parameter.device)
        if not torch.isfinite(delta).all():
            raise PriorError(f"{canonical}: Δ is not finite; compute it again with `drift delta`")
        self._parameters.append(parameter)
        self._deltas.append(delta)
        self._vlm_norms = torch.cat([self._vlm_norms, torch.tensor([stats["vlm_l2"]])])

    def _attach(self, optimizer: torch.optim.Optimizer) -> None:
        if self.config.apply == "backward":
            for k, parameter in enumerate(self._parameters):
                self._handles.append(parameter.register_hook(self._backward_hook(k)))
            return

        def before_step(*_: Any) -> None:
            self.guide()
            self._guided_this_step = False

        self._handles.append(optimizer.register_step_pre_hook(before_step))

    def _backward_hook(self, k: int) -> Callable[[Tensor], Tensor]:
        """The released code's place: the gradient of one micro-batch on one rank, before it is accumulated."""

        def hook(grad: Tensor) -> Tensor:
            alpha = self._alpha()
            if isinstance(alpha, float) and alpha == 0:
                return grad
            guided = grad.clone()
            with torch.no_grad():
                self._bias([(k, guided)], alpha)
            return guided

        return hook

    def _bias(self, gradients: list[tuple[int, Tensor]], alpha: float | Tensor) -> None:
        """g ← g + c·Δ for the given tensors, without a host synchronisation."""
        if not gradients:
            raise PriorError("no guided parameter has a gradient; is the text decoder part of the loss?")
        ks = [k for k, _ in gradients]
        grads = [grad for _, grad in gradients]
        norms = torch.stack([torch.linalg.vector_norm(grad, dtype=torch.float32) for grad in grads])
        dots = torch.stack([_dot(grad, self._deltas[k]) for k, grad in gradients])
        delta_norms = self._delta_norms[ks]
        rescale_to = self._vlm_norms[ks].to(norms.device) if self.config.rescale_to_weight else None
        c = gradient.coefficient(self.config.scale, alpha, norms, delta_norms, dots, rescale_to=rescale_to)
        for (k, grad), factor in zip(gradients, c.unbind(), strict=True):
            grad.addcmul_(self._deltas[k].to(grad.dtype), factor.to(grad.dtype))
        cos = gradient.cosine(norms, delta_norms, dots)
        self._last = {
            "cos": cos,
            "alpha": gradient.effective_alpha(self.config.scale, alpha, cos),
            "bias_norm": (c * delta_norms).norm(),
            "grad_norm": norms.norm(),
        }

    def _alpha(self) -> float | Tensor:
        """α of this step. `projection`: α·clamp((target − projection)/(target − start), 0, 1)."""
        schedule = self.config.schedule
        if schedule.kind == "constant" or self.config.alpha == 0:
            return self.config.alpha
        left = (schedule.target - self._projection()) / (schedule.target - schedule.start)
        return self.config.alpha * left.clamp(0.0, 1.0).float()

    @torch.no_grad()
    def _projection(self) -> Tensor:
        dots = torch.stack([_dot(p, d) for p, d in zip(self._parameters, self._deltas, strict=True)]).double()
        start = sum(self._delta.stats[name]["vlm_dot_delta"] for name in self._delta.shapes)
        return (dots.sum() - start) / self._delta_norms.double().square().sum()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.detach().flatten().float(), b.flatten().float())
