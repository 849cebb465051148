"""The prior Δ bound to a model and its optimizer: who applies g~ = g + c·Δ, when, and what it reports.

Symbols: Δ the prior, g the gradient, φ_t the weights at step t, φ_VL those of the original multimodal model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from drift.config.train import PriorConfig
from drift.ground.errors import PriorError
from drift.prior.bias import Bias
from drift.prior.directions import LoraDirections, find_directions, require_trained
from drift.prior.schedule import needs_total_steps, strength
from drift.prior.shards import Layout, Shard, find_layout, require_float32_masters
from drift.weights.delta.deltafile import DeltaFile, load_delta
from drift.weights.naming.layout import layer_index

__all__ = ["BindReport", "Prior", "PriorConfig", "load_delta"]

logger = logging.getLogger(__name__)

Call = Callable[[], Any]

OVERSHOOT = 1.2
"""A projection above this is past the expert; in miniature experiments it ruined both skills."""


@dataclass(frozen=True)
class BindReport:
    """What was bound, or `bind` has raised: every element of Δ exactly once per replica.

    ``elements`` and ``bytes`` are this rank's; ``left_out`` counts tensors of Δ that LoRA does not train.
    """

    parameters: int
    elements: int
    bytes: int
    left_out: int = 0


class Prior:
    """Biases the gradients of one model during training; see `bind`. ``step`` counts the optimizer's steps."""

    def __init__(self, config: PriorConfig, delta: DeltaFile) -> None:
        self.config = config
        self.delta = delta
        self.step = 0
        self._undo: list[Call] = []
        self._bias: Bias | None = None
        self._guided = False
        self._warned = False

    # ------------------------------------------------------------------------------------------ binding

    def bind(self, model: torch.nn.Module, optimizer: Any, *, total_steps: int | None = None) -> BindReport:
        """Attach to ``model`` and ``optimizer`` (after DDP, FSDP2 or DeepSpeed has wrapped them).

        From now on every step is guided. `apply: step` acts once per optimizer step on the averaged, accumulated
        gradient. With `clip: before` (the paper's order) call `guide()` before clipping; DeepSpeed clips by itself,
        so there it needs no call. `apply: backward` acts on each backward pass of each rank.
        ``total_steps`` is needed by schedules that depend on it. A collective call under several processes.
        Raises PriorError if a tensor of Δ has no trained partner, is bound twice, is not finite, or all are zero.
        """
        self.unbind()
        if needs_total_steps(self.config.schedule) and not total_steps:
            raise PriorError(f"prior.schedule.kind: '{self.config.schedule.kind}' needs bind(..., total_steps=...)")
        require_float32_masters(optimizer)
        self._total_steps = total_steps
        self._directions = find_directions(model, self.delta)
        self._layout = find_layout(optimizer, self._directions.parameters)
        seen = self._layout if self.config.apply == "step" else self._whole_gradients()
        self._shards = self._find_shards(seen)
        self._directions.place(self._shards, seen)
        self._bias = Bias(self.config, self._directions, self._shards, seen.group)
        self._attach(model, optimizer)
        return BindReport(
            parameters=len(self._directions.parameters),
            elements=sum(shard.elements for shard in self._shards),
            bytes=self._directions.bytes,
            left_out=self._directions.left_out,
        )

    def unbind(self) -> None:
        """Remove every hook and forget the tensors."""
        for undo in self._undo:
            undo()
        self._undo, self._bias = [], None

    def _whole_gradients(self) -> Layout:
        """What `apply: backward` sees: whole gradients, wherever the optimizer keeps its parts."""
        for name, parameter in zip(self._directions.names, self._directions.parameters, strict=True):
            if isinstance(parameter, DTensor) or hasattr(parameter, "ds_tensor"):
                raise PriorError(f"{name}: prior.apply: 'backward' needs whole gradients; use DDP, ZeRO-2 or 'step'")
        if isinstance(self._directions, LoraDirections):
            raise PriorError("prior.apply: 'backward' is the released code's, which has no LoRA; set 'step'")
        return Layout(self._layout.base, None, self._directions.parameters)

    def _find_shards(self, layout: Layout) -> list[Shard]:
        found = [layout.shard(k, parameter) for k, parameter in enumerate(self._directions.parameters)]
        shards = [shard for shard in found if shard is not None]
        held = {id(parameter) for group in self._layout.base.param_groups for parameter in group["params"]}
        for shard in shards if self._layout.outer is None else ():
            require_trained(self._directions.names[shard.parameter], id(shard.owner) in held)
        return shards

    def _attach(self, model: Any, optimizer: Any) -> None:
        if self.config.apply == "backward":
            for place, shard in enumerate(self._shards):
                hook = self._backward_hook(place)
                self._undo.append(self._directions.parameters[shard.parameter].register_hook(hook).remove)
            self._count_steps()
        elif self._layout.outer is not None:
            self._attach_to_deepspeed(self._layout.outer)
        else:
            self._attach_to_torch(model, optimizer)

    def _attach_to_torch(self, model: Any, optimizer: Any) -> None:
        zero0 = hasattr(model, "clip_fp32_gradients")  # DeepSpeed's engine, which clips before it steps
        if type(optimizer).__name__ == "DeepSpeedOptimizerWrapper" and self.config.clip == "before" and not zero0:
            raise PriorError(
                "DeepSpeed at ZeRO-0 in float32 clips before its optimizer is called; bind to the engine, "
                "use ZeRO-1 or higher, or set prior.clip: after"
            )
        first: Any = self._directions.parameters[0]
        self._undo.append(first.register_post_accumulate_grad_hook(self._new_gradient).remove)
        self._undo.append(self._layout.base.register_step_pre_hook(self._before_step).remove)
        self._count_steps()
        if zero0:
            self._wrap(model, "clip_fp32_gradients", before=self.guide)

    def _attach_to_deepspeed(self, outer: Any) -> None:
        if self.config.clip == "before":
            self._wrap(outer, "step", before=self._guide_averaged)
        else:
            self._undo.append(self._layout.base.register_step_pre_hook(self._guide_final).remove)
        self._count_steps()

    def _count_steps(self) -> None:
        """DeepSpeed may call the base optimizer several times in one step of its own."""
        if self._layout.outer is not None:
            self._wrap(self._layout.outer, "step", after=self._after_step)
        else:
            self._undo.append(self._layout.base.register_step_post_hook(self._after_step).remove)

    def _wrap(self, owner: Any, name: str, *, before: Call | None = None, after: Call | None = None) -> None:
        """Run ``before`` and ``after`` around the method ``name`` of ``owner``, until `unbind`."""
        method = getattr(owner, name)
        was_own = vars(owner).get(name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                before()
            result = method(*args, **kwargs)
            if after:
                after()
            return result

        setattr(owner, name, wrapped)
        self._undo.insert(0, lambda: setattr(owner, name, was_own) if was_own else delattr(owner, name))

    # ------------------------------------------------------------------------------------------ guiding

    @property
    def guides_before_clipping(self) -> bool:
        """Whether the training loop has to call `guide` before it clips."""
        return self.config.apply == "step" and self.config.clip == "before" and self._layout.outer is None

    def guide(self) -> None:
        """Bias the accumulated gradients once, in place; does nothing where another moment is right for it.

        Raises PriorError if the prior is bound to no model.
        """
        if self._bias is None:
            raise PriorError("the prior guides no model yet; call bind(model, optimizer) first")
        if self.guides_before_clipping and not self._guided:
            self._guided = True
            self._add([shard.averaged() for shard in self._shards])

    def _new_gradient(self, *_: Any) -> None:
        """A backward pass has added to the gradients: what there is now is not guided yet."""
        self._guided = False

    def _before_step(self, *_: Any) -> None:
        if not self._guided:
            self._add([shard.averaged() for shard in self._shards])

    def _after_step(self, *_: Any) -> None:
        self._guided = False
        self.step += 1

    def _guide_averaged(self) -> None:
        self._layout.before_bias()
        growth = self._add([shard.averaged() for shard in self._shards], self._layout.loss_scale)
        if growth is not None:
            self._layout.after_bias(growth)

    def _guide_final(self, *_: Any) -> None:
        """DeepSpeed calls the base optimizer once per group of parameters: bias those it steps now."""
        stepped = {id(parameter) for group in self._layout.base.param_groups for parameter in group["params"]}
        self._add([shard.final() if id(shard.owner) in stepped else None for shard in self._shards])

    @torch.no_grad()
    def _add(self, gradients: list[Tensor | None], loss_scale: float = 1.0) -> Tensor | None:
        """Bias one gradient per shard; the growth of ‖g‖², or None where α is 0: every gradient stays bit for bit."""
        alpha = self._alpha()
        if isinstance(alpha, float) and alpha == 0:
            return None
        return self._bound().add(gradients, alpha, loss_scale)

    def _backward_hook(self, place: int) -> Callable[[Tensor], Tensor]:
        """The released code's place: the gradient of one micro-batch on one rank, before it is accumulated."""

        @torch.no_grad()
        def hook(grad: Tensor) -> Tensor:
            alpha = self._alpha()
            return grad if isinstance(alpha, float) and alpha == 0 else self._bound().guided(place, grad, alpha)

        return hook

    def _alpha(self) -> float | Tensor:
        def projection() -> Tensor:
            return self._directions.travel()["projection"]

        return strength(self.config.schedule, self.config.alpha, self.step, self._total_steps, projection)

    def _bound(self) -> Bias:
        assert self._bias is not None  # hooks live between bind and unbind
        return self._bias

    # ------------------------------------------------------------------------------------------ reporting

    @torch.no_grad()
    def projection(self) -> float:
        """⟨φ_t − φ_VL, Δ⟩ / ‖Δ‖² over all guided tensors: 0 at the start, 1 at the expert. Collective if sharded."""
        return float(self._directions.travel()["projection"])

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Of the last guided step, over its K tensors; {} before it. A collective call where they are sharded.

        cos_mean, cos_min, cos_max of cos(g, Δ); alpha_mean, the effective α; prior_ratio ‖bias‖/‖g‖;
        guided_fraction, the share of tensors that had a gradient; projection; and under LoRA update_cosine.
        """
        if self._bias is None or not self._bias.acted:
            return {}
        noted, travel = self._bias.noted, {name: float(value) for name, value in self._directions.travel().items()}
        self._warn_past_expert(travel["projection"])
        gradient = float(noted["grad_norm"].norm())
        return {
            "cos_mean": float(noted["cos"].mean()),
            "cos_min": float(noted["cos"].min()),
            "cos_max": float(noted["cos"].max()),
            "alpha_mean": float(noted["alpha"].mean()),
            "prior_ratio": float(noted["bias_norm"].norm()) / gradient if gradient else 0.0,
            "guided_fraction": float((noted["grad_norm"] > 0).float().mean()),
            **travel,
        }

    def layer_cosines(self) -> list[float]:
        """cos(g, Δ) of the last guided step, the mean over each layer's tensors, first layer first; [] before it."""
        if self._bias is None or not self._bias.acted:
            return []
        by_layer: dict[int, list[float]] = {}
        for name, cos in zip(self._directions.names, self._bias.noted["cos"].tolist(), strict=True):
            if (layer := layer_index(name)) is not None:
                by_layer.setdefault(layer, []).append(cos)
        return [sum(cosines) / len(cosines) for _, cosines in sorted(by_layer.items())]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep: the step, and what must not change between the runs."""
        return {"step": self.step, "delta_sha256": self.delta.sha256(), "config": self.config.model_dump(mode="json")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``. Raises PriorError if it is of another Δ or another prior configuration."""
        mine = self.state_dict()
        if state["delta_sha256"] != mine["delta_sha256"]:
            raise PriorError(
                f"{self.delta.folder}: sha256 {mine['delta_sha256'][:12]}…, but the checkpoint was trained with a Δ of"
                f" {state['delta_sha256'][:12]}…; give that Δ, or start afresh"
            )
        for key, value in mine["config"].items():
            if state["config"].get(key) != value:
                raise PriorError(f"prior.{key}: {state['config'].get(key)} in the checkpoint, {value} here")
        self.step = int(state["step"])

    def _warn_past_expert(self, projection: float) -> None:
        if projection > OVERSHOOT and not self._warned:
            self._warned = True
            logger.warning(
                "projection %.2f is past the expert (1.0); lower α, the learning rate or the steps", projection
            )
