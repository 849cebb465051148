"""The prior Δ bound to a model and its optimizer: who applies g~ = g + c·Δ, when, and what it reports.

Symbols: Δ the prior, g the gradient, φ_t the weights at step t, φ_VL those of the original multimodal model,
K the number of guided tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from drift import gradient
from drift.artifacts import content_sha256
from drift.config import PriorConfig
from drift.delta import DELTA, DeltaFile
from drift.directions import LoraDirections, all_reduce, find_directions, require_trained
from drift.errors import PriorError
from drift.layout import layer_index
from drift.schedule import needs_total_steps, strength
from drift.shards import Layout, Shard, find_layout, require_float32_masters

logger = logging.getLogger(__name__)

Call = Callable[[], None]

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
        self._shards: list[Shard] = []
        self._guided = False
        self._seen = False
        self._warned = False
        self._last: dict[str, Tensor] = {}

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
        self._shards = self._find_shards()
        self._directions.place(self._shards, self._shard_layout)
        self._prepare_buffers()
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
        self._undo, self._shards, self._last = [], [], {}

    def _find_shards(self) -> list[Shard]:
        """This rank's shards; `apply: backward` sees whole gradients, wherever the optimizer keeps its parts."""
        parameters = self._directions.parameters
        self._shard_layout = self._layout
        if self.config.apply == "backward":
            self._require_whole_gradients()
            self._shard_layout = Layout(self._layout.base, None, parameters)
        found = [self._shard_layout.shard(k, parameter) for k, parameter in enumerate(parameters)]
        shards = [shard for shard in found if shard is not None]
        held = {id(parameter) for group in self._layout.base.param_groups for parameter in group["params"]}
        for shard in shards if self._layout.outer is None else ():
            require_trained(self._directions.names[shard.parameter], id(shard.owner) in held)
        return shards

    def _require_whole_gradients(self) -> None:
        for name, parameter in zip(self._directions.names, self._directions.parameters, strict=True):
            if isinstance(parameter, DTensor) or hasattr(parameter, "ds_tensor"):
                raise PriorError(f"{name}: prior.apply: 'backward' needs whole gradients; use DDP, ZeRO-2 or 'step'")
        if isinstance(self._directions, LoraDirections):
            raise PriorError("prior.apply: 'backward' is the released code's, which has no LoRA; set 'step'")

    def _prepare_buffers(self) -> None:
        device = self._shards[0].owner.device if self._shards else torch.device("cpu")
        count = len(self._directions.parameters)
        self._places = torch.tensor([shard.parameter for shard in self._shards], device=device, dtype=torch.long)
        self._vlm_norms = None
        if self.config.rescale_to_weight:
            self._vlm_norms = self._directions.vlm_norms(device)
        self._last = {name: torch.zeros(count, device=device) for name in ("cos", "alpha", "bias_norm", "grad_norm")}
        self._seen = False

    def _attach(self, model: Any, optimizer: Any) -> None:
        if self.config.apply == "backward":
            self._attach_to_backward()
        elif self._layout.outer is not None:
            self._attach_to_deepspeed(self._layout.outer)
        else:
            self._attach_to_torch(model, optimizer)

    def _attach_to_torch(self, model: Any, optimizer: Any) -> None:
        first: Any = self._directions.parameters[0]
        self._undo.append(first.register_post_accumulate_grad_hook(self._new_gradient).remove)
        self._undo.append(self._layout.base.register_step_pre_hook(self._before_step).remove)
        self._undo.append(self._layout.base.register_step_post_hook(self._after_step).remove)
        if hasattr(model, "clip_fp32_gradients"):  # DeepSpeed's engine at ZeRO-0: it clips before it steps
            self._wrap(model, "clip_fp32_gradients", before=self.guide)
        elif type(optimizer).__name__ == "DeepSpeedOptimizerWrapper" and self.config.clip == "before":
            raise PriorError(
                "DeepSpeed at ZeRO-0 in float32 clips before its optimizer is called; bind to the engine, "
                "use ZeRO-1 or higher, or set prior.clip: after"
            )

    def _attach_to_deepspeed(self, outer: Any) -> None:
        if self.config.clip == "before":
            self._wrap(outer, "step", before=self._guide_averaged, after=self._after_step)
        else:
            self._wrap(outer, "step", after=self._after_step)
            self._undo.append(self._layout.base.register_step_pre_hook(self._guide_final).remove)

    def _attach_to_backward(self) -> None:
        """The released code's place: the gradient of one micro-batch on one rank, before it is accumulated."""
        for shard, parameter in zip(self._shards, self._directions.parameters, strict=True):
            self._undo.append(parameter.register_hook(self._backward_hook(shard)).remove)
        if self._layout.outer is not None:
            self._wrap(self._layout.outer, "step", after=self._after_step)
        else:
            self._undo.append(self._layout.base.register_step_post_hook(self._after_step).remove)

    def _wrap(self, owner: Any, name: str, *, before: Call | None = None, after: Call | None = None) -> None:
        """Run ``before`` and ``after`` around the method ``name`` of ``owner``, until `unbind`."""
        method = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                before()
            result = method(*args, **kwargs)
            if after:
                after()
            return result

        setattr(owner, name, wrapped)
        self._undo.append(lambda: delattr(owner, name))

    # ------------------------------------------------------------------------------------------ guiding

    @property
    def guides_before_clipping(self) -> bool:
        """Whether the training loop has to call `guide` before it clips."""
        return self.config.apply == "step" and self.config.clip == "before" and self._layout.outer is None

    def guide(self) -> None:
        """Bias the accumulated gradients once, in place; does nothing where another moment is right for it."""
        if self.guides_before_clipping and not self._guided:
            self._guided = True
            self._bias([shard.averaged() for shard in self._shards])

    def _new_gradient(self, *_: Any) -> None:
        """A backward pass has added to the gradients: what there is now is not guided yet."""
        self._guided = False

    def _before_step(self, *_: Any) -> None:
        if not self._guided:
            self._bias([shard.averaged() for shard in self._shards])

    def _after_step(self, *_: Any) -> None:
        self._guided = False
        self.step += 1

    def _guide_averaged(self) -> None:
        self._layout.before_bias()
        growth = self._bias([shard.averaged() for shard in self._shards], self._layout.loss_scale)
        if growth is not None:
            self._layout.after_bias(growth)

    def _guide_final(self, *_: Any) -> None:
        """DeepSpeed calls the base optimizer once per group of parameters: bias those it steps now."""
        stepped = {id(parameter) for group in self._layout.base.param_groups for parameter in group["params"]}
        self._bias([shard.final() if id(shard.owner) in stepped else None for shard in self._shards])

    @torch.no_grad()
    def _bias(self, gradients: Sequence[Tensor | None], loss_scale: float = 1.0) -> Tensor | None:
        """g ← g + c·Δ, one gradient per shard, without a host synchronisation.

        Returns by how much the model's ‖g‖² grew, or None where α is 0 and every gradient stays bit for bit.
        """
        alpha = self._alpha()
        if isinstance(alpha, float) and alpha == 0:
            return None
        pieces = self._directions.pieces()
        norms, dots = self._sums(gradients, pieces)
        c = self._coefficients(slice(None), alpha * self._unscaled(loss_scale), norms, dots)
        factors = c.unbind()
        for shard, piece, grad in zip(self._shards, pieces, gradients, strict=True):
            if grad is not None:
                gradient.add_bias_(grad, piece, factors[shard.parameter])
        return (2 * c * dots + (c * self._directions.norms(c.device)).square()).sum()

    def _sums(self, gradients: Sequence[Tensor | None], pieces: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """‖g‖ and ⟨g, Δ⟩ of the whole parameters, (K,) each, float32: one all-reduce where they are sharded."""
        group = self._shard_layout.group
        if group is None and all(grad is None for grad in gradients):
            raise PriorError("no guided parameter has a gradient; is the text decoder part of the loss?")
        sums = torch.zeros(2, len(self._directions.parameters), device=self._places.device)
        if self._shards:
            pairs = [_square_and_dot(grad, piece) for grad, piece in zip(gradients, pieces, strict=True)]
            sums.index_copy_(1, self._places, torch.stack(pairs, dim=1))
        squares, dots = all_reduce(sums, group)
        return squares.sqrt(), dots

    def _coefficients(self, ks: slice, alpha: float | Tensor, norms: Tensor, dots: Tensor) -> Tensor:
        """c of g~ = g + c·Δ for the parameters ``ks``, and a note of what it was made of for `metrics`."""
        scale, delta_norms = self.config.scale, self._directions.norms(norms.device)[ks]
        rescale_to = None if self._vlm_norms is None else self._vlm_norms[ks]
        c = gradient.coefficient(scale, alpha, norms, delta_norms, dots, rescale_to=rescale_to)
        cos = gradient.cosine(norms, delta_norms, dots)
        effective = gradient.effective_alpha(scale, alpha, cos)
        made_of = {"cos": cos, "alpha": effective, "bias_norm": c.abs() * delta_norms, "grad_norm": norms}
        for name, values in made_of.items():
            self._last[name][ks] = torch.where(norms > 0, values, self._last[name][ks])
        self._seen = True
        return c

    def _backward_hook(self, shard: Shard) -> Callable[[Tensor], Tensor]:
        only = slice(shard.parameter, shard.parameter + 1)

        @torch.no_grad()
        def hook(grad: Tensor) -> Tensor:
            alpha = self._alpha()
            if isinstance(alpha, float) and alpha == 0:
                return grad
            guided, piece = grad.clone(memory_format=torch.contiguous_format), self._directions.pieces()[only.start]
            squares, dots = _square_and_dot(guided.view(-1), piece).unsqueeze(1)
            c = self._coefficients(only, alpha, squares.sqrt(), dots)
            gradient.add_bias_(guided.view(-1), piece, c[0])
            return guided

        return hook

    def _alpha(self) -> float | Tensor:
        def projection() -> Tensor:
            return self._directions.travel()["projection"]

        return strength(self.config.schedule, self.config.alpha, self.step, self._total_steps, projection)

    def _unscaled(self, loss_scale: float) -> float:
        """`absolute` is the only scale that does not grow with a gradient that is multiplied with a loss scale."""
        return loss_scale if self.config.scale == "absolute" else 1.0

    # ------------------------------------------------------------------------------------------ reporting

    @torch.no_grad()
    def projection(self) -> float:
        """⟨φ_t − φ_VL, Δ⟩ / ‖Δ‖² over all guided tensors: 0 at the start, 1 at the expert. Collective if sharded."""
        return float(self._directions.travel()["projection"])

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Of the last guided step, over the K tensors; {} before it. A collective call where they are sharded.

        cos_mean, cos_min, cos_max of cos(g, Δ); alpha_mean, the effective α; prior_ratio ‖bias‖/‖g‖;
        guided_fraction, the share of tensors that had a gradient; projection; and under LoRA update_cosine.
        """
        if not self._seen:
            return {}
        last, travel = self._last, {name: float(value) for name, value in self._directions.travel().items()}
        self._warn_past_expert(travel["projection"])
        return {
            "cos_mean": float(last["cos"].mean()),
            "cos_min": float(last["cos"].min()),
            "cos_max": float(last["cos"].max()),
            "alpha_mean": float(last["alpha"].mean()),
            "prior_ratio": float(last["bias_norm"].norm() / last["grad_norm"].norm()),
            "guided_fraction": float((last["grad_norm"] > 0).float().mean()),
            **travel,
        }

    def layer_cosines(self) -> list[float]:
        """cos(g, Δ) of the last guided step, the mean over each layer's tensors, first layer first; [] before it."""
        if not self._seen:
            return []
        by_layer: dict[int, list[float]] = {}
        for name, cos in zip(self._directions.names, self._last["cos"].tolist(), strict=True):
            if (layer := layer_index(name)) is not None:
                by_layer.setdefault(layer, []).append(cos)
        return [sum(cosines) / len(cosines) for _, cosines in sorted(by_layer.items())]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep: the step, and what must not change between the runs."""
        sha256 = content_sha256(self.delta.folder / DELTA)
        return {"step": self.step, "delta_sha256": sha256, "config": self.config.model_dump(mode="json")}

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


def _square_and_dot(grad: Tensor | None, piece: Tensor) -> Tensor:
    """(‖g‖², ⟨g, Δ⟩) of one flat piece, float32, shape (2,); zeros where there is no gradient."""
    if grad is None:
        return torch.zeros(2, device=piece.device)
    square = torch.linalg.vector_norm(grad, dtype=torch.float32).square()
    return torch.stack([square, torch.dot(grad.float(), piece.float())])
