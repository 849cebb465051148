"""Where an optimizer keeps each parameter's gradient and float32 weight: one layout per kind of optimizer.

A `Shard` is the part of one parameter that this rank updates. torch's optimizers (alone or under DDP) hold whole
parameters, FSDP2 holds DTensors, and DeepSpeed flattens, partitions or clones them; its layouts are told apart by
the class of its optimizer. Two moments matter: `averaged`, the gradient after accumulation and reduction but before
clipping, and `final`, what the base optimizer's `step` is about to use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from drift.ground.errors import PriorError


@dataclass(frozen=True)
class Shard:
    """This rank's part of guided parameter number ``parameter``; all its tensors are flat and of one length.

    ``part`` cuts the same elements out of a tensor of the parameter's whole shape; ``elements`` counts them without
    padding. ``owner`` is the tensor in the base optimizer's groups that ``weight`` is a view of.
    """

    parameter: int
    elements: int
    owner: Tensor
    part: Callable[[Tensor], Tensor]
    weight: Callable[[], Tensor]
    averaged: Callable[[], Tensor | None]
    final: Callable[[], Tensor | None]


class Layout:
    """Plain torch: one process, DDP (every rank holds all), FSDP2 (DTensors), DeepSpeed ZeRO-0 in float32.

    ``base`` is the innermost torch optimizer. ``outer`` is DeepSpeed's optimizer around it, whose `step` clips, or
    None where the training loop does. ``group`` are the ranks whose shards make up one parameter, or None.
    """

    def __init__(self, base: torch.optim.Optimizer, outer: Any, parameters: Sequence[Tensor]) -> None:
        self.base, self.outer = base, outer
        self.group = self._group(parameters)

    @property
    def loss_scale(self) -> float:
        """What the averaged gradient is still multiplied with: DeepSpeed's loss scale, 1 except in float16."""
        return float(getattr(self.outer, "loss_scale", 1.0))

    def shard(self, number: int, parameter: Any) -> Shard | None:
        """This rank's part of ``parameter``; None if it updates nothing of it."""

        def part(whole: Tensor) -> Tensor:
            if not isinstance(parameter, DTensor):
                return whole.flatten()
            on_mesh = whole.to(parameter.device)
            placed = distribute_tensor(on_mesh, parameter.device_mesh, parameter.placements, src_data_rank=None)
            return placed.to_local().flatten()

        def gradient() -> Tensor | None:
            return None if parameter.grad is None else _flat(parameter.grad)

        return Shard(
            parameter=number,
            elements=_flat(parameter).numel(),
            owner=parameter,
            part=part,
            weight=lambda: _flat(parameter),
            averaged=gradient,
            final=gradient,
        )

    def before_bias(self) -> None:
        """Called before averaged gradients are biased."""

    def after_bias(self, growth: Tensor) -> None:
        """Called after averaged gradients were biased; ``growth`` is by how much ‖g‖² of the model grew."""

    def _group(self, parameters: Sequence[Tensor]) -> Any:
        sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
        if sharded and len(sharded) < len(parameters):
            raise PriorError("FSDP2 shards some of the guided parameters and not others; shard all of the decoder")
        dimensions = {dim for p in sharded for dim, placement in enumerate(p.placements) if placement.is_shard()}
        if len(dimensions) > 1:
            raise PriorError("the guided parameters are sharded along two mesh dimensions; the prior knows one")
        return sharded[0].device_mesh.get_group(dimensions.pop()) if dimensions else None


class Zero12Layout(Layout):
    """ZeRO-1 and -2: a group of parameters is one flat tensor, and each rank owns a contiguous part of it."""

    def __init__(self, base: torch.optim.Optimizer, outer: Any, parameters: Sequence[Tensor]) -> None:
        super().__init__(base, outer, parameters)
        if getattr(outer, "round_robin_gradients", False):  # it pads between parameters, unseen by their numbers
            raise PriorError("zero_optimization.round_robin_gradients: true is unknown to the prior; set it to false")

    def shard(self, number: int, parameter: Any) -> Shard | None:
        """The fragment of ``parameter`` that DeepSpeed maps into this rank's flat float32 partition."""
        if parameter._hp_mapping is None:
            return None
        of, to = parameter._hp_mapping.lp_fragment_address, parameter._hp_mapping.hp_fragment_address
        owner = self._partition(parameter._hp_mapping.param_group_index)
        return Shard(
            parameter=number,
            elements=of.numel,
            owner=owner,
            part=lambda whole: whole.flatten().narrow(0, of.start, of.numel),
            weight=lambda: owner.detach().narrow(0, to.start, to.numel),
            averaged=lambda: self._averaged(parameter),
            final=lambda: None if owner.grad is None else owner.grad.narrow(0, to.start, to.numel),
        )

    def after_bias(self, growth: Tensor) -> None:
        """With CPU offload DeepSpeed remembers the norm of each gradient from before: set it anew."""
        if not self.outer.cpu_offload:
            return
        for parameter in (p for group in self.outer.bit16_groups for p in group if p._hp_mapping is not None):
            gradient = self._averaged(parameter)
            self.outer.norm_for_param_grads[self.outer.get_param_id(parameter)] = gradient.norm()

    def _group(self, parameters: Sequence[Any]) -> Any:
        return parameters[0]._dp_group

    def _partition(self, group: int) -> Any:
        return self.outer.single_partition_of_fp32_groups[group]

    def _averaged(self, parameter: Any) -> Any:
        mapping = parameter._hp_mapping
        if self.outer.cpu_offload:
            to = mapping.hp_fragment_address
            return self._partition(mapping.param_group_index).grad.narrow(0, to.start, to.numel)
        fragment = mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        return None if fragment is None else fragment.view(-1)


class Bf16Layout(Zero12Layout):
    """ZeRO-1 in bfloat16 with float32 accumulation: partitions as above, but each rank keeps the whole gradient.

    DeepSpeed takes the norm for clipping over that whole gradient, of which this rank biases its part only. So the
    norm it is given is the one from before the bias, and the growth that all ranks' biases add up to.
    """

    def before_bias(self) -> None:
        """Take ‖g‖² while no part of the gradient is biased yet."""
        gradients, _ = type(self.outer).get_grads_for_norm(self.outer)
        norms = torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients])
        self._squared_norm = norms.square().sum()

    def after_bias(self, growth: Tensor) -> None:
        """Give the next clipping ‖g~‖ in place of the gradients it would take the norm of."""
        guided_norm = (self._squared_norm + growth).clamp(min=0).sqrt()

        def gradients_for_norm(for_clipping: bool = False) -> Any:
            every = type(self.outer).get_grads_for_norm
            return every(self.outer, for_clipping=True) if for_clipping else ([guided_norm], {})

        self.outer.get_grads_for_norm = gradients_for_norm

    def _partition(self, group: int) -> Any:
        return self.outer.fp32_groups_flat_partition[group]

    def _averaged(self, parameter: Any) -> Any:
        of = parameter._hp_mapping.lp_fragment_address
        whole = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        return whole.view(-1).narrow(0, of.start, of.numel)


class UnfusedLayout(Layout):
    """ZeRO-0 in bfloat16: the optimizer holds float32 clones, and their gradients exist within its step only."""

    def shard(self, number: int, parameter: Any) -> Shard | None:
        """The whole parameter: its own gradient before clipping, its clone's in the step."""
        pairs = zip(self.outer.fp16_groups, self.outer.fp32_groups, strict=True)
        clones = [clone for group in pairs for own, clone in zip(*group, strict=True) if own is parameter]
        clone = clones[0]
        return Shard(
            parameter=number,
            elements=clone.numel(),
            owner=clone,
            part=torch.flatten,
            weight=lambda: _flat(clone),
            averaged=lambda: None if parameter.grad is None else _flat(parameter.grad),
            final=lambda: None if clone.grad is None else _flat(clone.grad),
        )


class Zero3Layout(Layout):
    """ZeRO-3: every parameter is cut into equal parts, the last ones padded, and each rank keeps one."""

    def shard(self, number: int, parameter: Any) -> Shard | None:
        """This rank's part, which may be padding only."""
        group, offset, length = self.outer.grad_position[self.outer.get_param_id(parameter)]
        if self.outer._swappable_optimizer_subgroup(group):
            raise PriorError("zero_optimization.offload_optimizer: the prior cannot act on NVMe; set device: cpu")
        start = min(length * dist.get_rank(parameter.ds_process_group), parameter.ds_numel)
        elements = min(length, parameter.ds_numel - start)
        owner = self.outer.fp32_partitioned_groups_flat[group]
        return Shard(
            parameter=number,
            elements=elements,
            owner=owner,
            part=lambda whole: _padded(whole.flatten().narrow(0, start, elements), length),
            weight=lambda: owner.detach().narrow(0, offset, length),
            averaged=lambda: self._averaged(parameter),
            final=lambda: None if owner.grad is None else owner.grad.narrow(0, offset, length),
        )

    def after_bias(self, growth: Tensor) -> None:
        """With CPU offload DeepSpeed remembers the norm of each gradient from before: set it anew."""
        if not self.outer.offload_optimizer:
            return
        for parameter in (p for group in self.outer.fp16_groups for p in group):
            self.outer.norm_for_param_grads[self.outer.get_param_id(parameter)] = self._averaged(parameter).norm()

    def _group(self, parameters: Sequence[Any]) -> Any:
        return parameters[0].ds_process_group

    def _averaged(self, parameter: Any) -> Any:
        gradient, _ = self.outer._get_fp32_grad_state_partition(parameter, release_swap_buffers=False)
        return gradient


DEEPSPEED: dict[str, type[Layout]] = {
    "DeepSpeedZeroOptimizer": Zero12Layout,
    "DeepSpeedZeroOptimizer_Stage3": Zero3Layout,
    "BF16_Optimizer": Bf16Layout,
    "FP16_UnfusedOptimizer": UnfusedLayout,
}
"""DeepSpeed's optimizers by class name: importing their classes would import DeepSpeed."""


def find_layout(optimizer: Any, parameters: Sequence[Tensor]) -> Layout:
    """The layout of ``optimizer``, as torch, accelerate or DeepSpeed give it. Raises PriorError if it is unknown."""
    unwrapped = unwrap(optimizer)
    base = getattr(unwrapped, "optimizer", None)
    if isinstance(base, torch.optim.Optimizer):
        kind = type(unwrapped).__name__
        if kind not in DEEPSPEED:
            raise PriorError(f"{kind}: an optimizer the prior does not know; known: {', '.join(DEEPSPEED)}, torch's")
        return DEEPSPEED[kind](base, unwrapped, parameters)
    return Layout(unwrapped, None, parameters)


def unwrap(optimizer: Any) -> Any:
    """The optimizer inside accelerate's wrappers: DeepSpeed's, or torch's."""
    from accelerate.optimizer import AcceleratedOptimizer

    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer


def require_float32_masters(optimizer: Any) -> None:
    """Raise PriorError if the optimizer updates weights of 16 bits: at a learning rate of 1e-6 most would not move.

    Half a unit in the last place of a bfloat16 weight of 0.02 is 3e-5; smaller steps are rounded away, in silence.
    """
    inside = unwrap(optimizer)
    base = inside if isinstance(inside, torch.optim.Optimizer) else inside.optimizer
    for dtype in {parameter.dtype for group in base.param_groups for parameter in group["params"]}:
        if dtype in (torch.bfloat16, torch.float16):
            raise PriorError(
                f"the optimizer updates {dtype} weights without float32 masters, so small steps are rounded away;"
                " load the model in float32 (bf16 as autocast), or let DeepSpeed keep masters"
            )


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape of a parameter before ZeRO-3 took its elements away."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _flat(tensor: Tensor) -> Tensor:
    own = tensor.detach()
    return (own.to_local() if isinstance(own, DTensor) else own).view(-1)


def _padded(flat: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(flat, (0, length - flat.numel()))
