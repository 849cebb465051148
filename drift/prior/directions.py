"""What each trained tensor is pulled along: Δ itself, or, under LoRA, Δ projected on the two factors.

Symbols: Δ (D for one matrix) the prior, W_t = W_0 + s·B·A the weight under LoRA with the factors A (rank, in) and
B (out, rank) and peft's scaling s, φ_t the weights at step t, φ_VL those of the original multimodal model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from drift.ground.errors import PriorError
from drift.prior.kept import Kept, Pieces, keep
from drift.prior.shards import Layout, Shard, whole_shape
from drift.prior.sums import dot
from drift.weights.delta.deltafile import DeltaFile
from drift.weights.naming.layout import find_partners, match_parameters
from drift.weights.storage.streaming import dot as exact_dot

logger = logging.getLogger(__name__)


class Directions:
    """Full fine-tuning: parameter k is pulled along its Δ_k, of which this rank keeps the elements of its shards.

    ``names`` are canonical, in the order of ``parameters``. Raises PriorError, naming the tensor, where Δ has no
    partner of its shape in the model, or the partner is frozen.
    """

    left_out = 0

    def __init__(self, model: torch.nn.Module, delta: DeltaFile) -> None:
        named = dict(model.named_parameters())
        pairs = match_parameters({name: whole_shape(p) for name, p in named.items()}, delta.shapes)
        self.delta = delta
        self.names = list(pairs)
        self.parameters: list[Tensor] = [named[runtime] for runtime in pairs.values()]
        for runtime in pairs.values():
            require_trained(runtime, named[runtime].requires_grad)

    def place(self, shards: Sequence[Shard], layout: Layout) -> None:
        """Read this rank's parts of Δ onto the devices of their weights.

        Raises PriorError, on every rank alike, unless each element of Δ is bound exactly once per replica, all
        are finite, and not all are zero.
        """
        self._shards, self._layout = shards, layout
        self._kept = [self._read(shard) for shard in shards]
        seen = torch.zeros(2, len(self.names), dtype=torch.float64)
        for shard, piece in zip(shards, self.pieces(), strict=True):
            seen[:, shard.parameter] += torch.tensor([shard.elements, float(dot(piece, piece))], dtype=torch.float64)
        counts, squares = all_reduce(seen, layout.group)
        for name, count in zip(self.names, counts.tolist(), strict=True):
            if count != self.delta.stats[name]["numel"]:
                raise PriorError(
                    f"{name}: {int(count)} of {self.delta.stats[name]['numel']} elements of Δ are bound; "
                    "the optimizer does not hold this parameter exactly once"
                )
        check_norms(self.delta, self.names, squares)
        self._norms = squares.sqrt().float()

    @property
    def bytes(self) -> int:
        """Bytes of Δ that this rank keeps."""
        return sum(kept.size_bytes for kept in self._kept)

    def pieces(self) -> Pieces:
        """The direction of every shard, flat, in the dtype Δ is stored in, or float32 where it is not stored whole."""
        return Pieces(self._kept)

    def norms(self, device: torch.device) -> Tensor:
        """‖Δ_k‖ of the whole parameters, (K,), float32."""
        self._norms = self._norms.to(device)
        return self._norms

    def vlm_norms(self, device: torch.device) -> Tensor:
        """‖φ_VL,k‖ of the original weights, (K,), float32."""
        return torch.tensor([self.delta.stats[name]["vlm_l2"] for name in self.names], device=device)

    def travel(self) -> dict[str, Tensor]:
        """`projection` = ⟨φ_t − φ_VL, Δ⟩/‖Δ‖² over all guided tensors. A collective call where they are sharded."""
        dots = [dot(shard.weight(), piece) for shard, piece in zip(self._shards, self.pieces(), strict=True)]
        local = torch.stack(dots).double().sum() if dots else torch.zeros((), dtype=torch.float64)
        start = sum(self.delta.stats[name]["vlm_dot_delta"] for name in self.names)
        moved = all_reduce(local, self._layout.group) - start
        return {"projection": moved / self._norms.double().square().sum().to(moved.device)}

    def _read(self, shard: Shard) -> Kept:
        return keep(self.delta.form(self.names[shard.parameter]), shard.part, shard.weight().device)


class LoraDirections:
    """LoRA: the gradient of W would be pulled along D, so those of the factors are along s·Bᵀ·D and s·D·Aᵀ.

    (∂L/∂A = s·Bᵀ·∂L/∂W and ∂L/∂B = s·∂L/∂W·Aᵀ, with ∂L/∂W replaced by D.) Every rank keeps all of D, since the
    products need it; the factors themselves may be sharded by ZeRO-1 or -2. Biases and norms of Δ, which LoRA does
    not train, are left out and counted. Raises PriorError for a matrix of Δ without an adapter.
    """

    def __init__(self, model: torch.nn.Module, delta: DeltaFile) -> None:
        adapters = {f"{name}.weight": module for name, module in model.named_modules() if hasattr(module, "lora_A")}
        matrices = {name: shape for name, shape in delta.shapes.items() if len(shape) > 1}
        partners = find_partners({name: whole_shape(m.base_layer.weight) for name, m in adapters.items()}, matrices)
        for name in matrices:
            if name not in partners:
                raise PriorError(f"{name}: Δ has a prior for it, but no LoRA adapter is there; add it to the targets")
        self.delta = delta
        self.left_out = len(delta.shapes) - len(matrices)
        if self.left_out:
            logger.warning("LoRA trains no biases and norms: %d tensors of Δ are left out", self.left_out)
        self._matrices = list(partners)
        factors = [_factors(runtime, adapters[runtime]) for runtime in partners.values()]
        self._scaling = [scaling for *_, scaling in factors]
        self._bases = [adapters[runtime].base_layer.weight.detach() for runtime in partners.values()]
        self.names = [f"{name} ({factor})" for name in partners for factor in "AB"]
        self.parameters: list[Tensor] = [factor for a, b, _ in factors for factor in (a, b)]

    def place(self, shards: Sequence[Shard], layout: Layout) -> None:
        """Read D whole onto the device of its factors. Raises PriorError if it is not finite, or all zero."""
        self._shards = shards
        devices = [parameter.device for parameter in self.parameters[::2]]
        read = zip(self._matrices, devices, strict=True)
        self._deltas = [self.delta.form(name).to(device) for name, device in read]
        self._squares = torch.stack([dot(whole := form.whole(), whole).double().cpu() for form in self._deltas])
        check_norms(self.delta, self._matrices, self._squares)
        at_start = zip(self._bases, self._deltas, self._matrices, strict=True)
        self._start = sum(exact_dot(w, d.whole()) - self.delta.stats[name]["vlm_dot_delta"] for w, d, name in at_start)

    @property
    def bytes(self) -> int:
        """Bytes of Δ that this rank keeps: all of its matrices."""
        return sum(form.size_bytes for form in self._deltas)

    def pieces(self) -> list[Tensor]:
        """The direction of every shard, flat float32, from the factors as they are now."""
        self._along = [direction for k in range(len(self._deltas)) for direction in self._directions(k)]
        return [shard.part(self._along[shard.parameter]) for shard in self._shards]

    def norms(self, device: torch.device) -> Tensor:
        """The norms of the whole directions of the last `pieces`, (K,), float32."""
        return torch.stack([along.norm() for along in self._along]).to(device)

    def vlm_norms(self, device: torch.device) -> Tensor:
        """Raises PriorError: a factor has no original weight whose norm Δ could be rescaled to."""
        raise PriorError("prior.rescale_to_weight: has no meaning under LoRA; remove it")

    def travel(self) -> dict[str, Tensor]:
        """`projection` ⟨W_t − φ_VL, D⟩/‖D‖² and `update_cosine` cos(s·B·A, D): how much of Δ the rank lets through.

        ⟨W_t − φ_VL, D⟩ = ⟨W_0, D⟩ − ⟨φ_VL, D⟩ + ⟨s·B·A, D⟩, where W_0 may be further than φ_VL.
        ⟨s·B·A, D⟩ = ⟨B, s·D·Aᵀ⟩ and ‖B·A‖² = ⟨BᵀB, AAᵀ⟩, so the product is never formed.
        """
        moved, squared = [], []
        for k, scaling in enumerate(self._scaling):
            a, b = self._pair(k)
            moved.append((b * self._directions(k)[1]).sum().double())
            squared.append((scaling**2 * ((b.T @ b) * (a @ a.T)).sum()).double())
        total, length = torch.stack(moved).sum(), torch.stack(squared).sum().clamp(min=0).sqrt()
        whole = self._squares.sum().to(total.device)
        cosine = torch.where(length > 0, total / (length * whole.sqrt()), 0.0)
        return {"projection": (self._start + total) / whole, "update_cosine": cosine}

    def _pair(self, k: int) -> tuple[Tensor, Tensor]:
        a, b = self.parameters[2 * k : 2 * k + 2]
        return a.detach().float(), b.detach().float()

    def _directions(self, k: int) -> tuple[Tensor, Tensor]:
        a, b = self._pair(k)
        delta = self._deltas[k].whole().float()
        return self._scaling[k] * (b.T @ delta), self._scaling[k] * (delta @ a.T)


def find_directions(model: torch.nn.Module, delta: DeltaFile) -> Directions | LoraDirections:
    """LoRA's where ``model`` has peft's adapters, else Δ itself."""
    adapted = any(hasattr(module, "lora_A") for module in model.modules())
    return LoraDirections(model, delta) if adapted else Directions(model, delta)


def require_trained(name: str, trained: bool) -> None:
    """Raise PriorError for a guided parameter that the optimizer does not train."""
    if not trained:
        raise PriorError(f"{name}: Δ has a prior for it, but it is not trained; unfreeze it or narrow `modules`")


def check_norms(delta: DeltaFile, names: Sequence[str], squares: Tensor) -> None:
    """Raise PriorError if a ‖Δ_k‖² is not finite or not the one in the statistics, or if all are 0."""
    for name, square in zip(names, squares.tolist(), strict=True):
        expected = delta.stats[name]["l2"] ** 2
        if not abs(square - expected) <= 1e-3 * expected:
            raise PriorError(
                f"{name}: ‖Δ‖² is {square:.6g} in {delta.folder}, and {expected:.6g} in its statistics; "
                "compute it again with `drift delta`"
            )
    if not squares.any():
        raise PriorError(f"{delta.folder}: Δ is zero, so it guides nothing; compute it from two different models")


def all_reduce(values: Tensor, group: Any) -> Tensor:
    """The sum of ``values`` over the ranks of ``group``, on their device; as they are where there is no group."""
    if group is None:
        return values
    on_gpu = dist.get_backend(group) == "nccl"
    summed = values.to(torch.device("cuda", torch.cuda.current_device())) if on_gpu else values.clone()
    dist.all_reduce(summed, group=group)
    return summed.to(values.device)


def _factors(name: str, module: Any) -> tuple[Tensor, Tensor, float]:
    """A, B and s of peft's LoRA layer ``module``. Raises PriorError for what the formula does not cover."""
    (adapter, *more) = module.active_adapters
    if more:
        raise PriorError(f"{name}: adapters {', '.join(module.active_adapters)} are active; the prior knows one")
    a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
    if module.use_dora.get(adapter):
        raise PriorError(f"{name}: DoRA rescales the weight, which the projected prior does not know; use plain LoRA")
    if hasattr(a, "ds_tensor") or isinstance(a, DTensor):
        raise PriorError(f"{name}: LoRA with a prior needs whole factors on every rank; use DDP or ZeRO-2")
    require_trained(name, a.requires_grad and b.requires_grad)
    return a, b, float(module.scaling[adapter])
