"""One tensor of a merged decoder, a stretch at a time, in float32: norms and biases like projections."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from drift.config.models import MergeConfig
from drift.weights.layout import layer_index
from drift.weights.merging.formulas import disjoint_sum, elect_signs, linear, task_arithmetic
from drift.weights.merging.sparse import keep_mask, masked, tensor_generator, trimmer
from drift.weights.streaming import pieces


def merge_tensor(config: MergeConfig, name: str, vlm: Tensor, expert: Tensor, base: Tensor | None) -> Tensor:
    """One tensor of the merged decoder, in float32, from float32 tensors of equal shape."""
    tensors = [vlm, expert] if base is None else [vlm, expert, base]
    read = functools.partial(pieces, *tensors)
    return torch.cat(list(merge_pieces(config, name, vlm.numel(), read))).reshape(vlm.shape)


Read = Callable[[], Iterable[Sequence[Tensor]]]
"""Read φ_VL, φ_reason and, for methods that need it, φ_base, from the beginning: flat, a stretch at a time."""


def merge_pieces(config: MergeConfig, name: str, elements: int, read: Read) -> Iterator[Tensor]:
    """`merge_tensor`, a stretch at a time, in float32; TIES reads each tensor five times, everything else once."""
    keep: tuple[Callable[[Tensor], Tensor], ...] | None = None
    for vlm, expert, *rest in read():
        if not rest:
            kept = config.method == "layer_swap" and _stays(config, name)
            yield vlm.clone() if kept else linear(vlm, expert, config.weights)
        elif config.method == "task_arithmetic":
            yield task_arithmetic(vlm, expert, rest[0], config.weights)
        else:
            keep = keep or _sparsifiers(config, name, elements, read)
            tasks = torch.stack([keep[0](vlm - rest[0]), keep[1](expert - rest[0])])
            yield rest[0] + _joined(config, tasks)


def _stays(config: MergeConfig, name: str) -> bool:
    """Whether a layer swap leaves this tensor the VLM's."""
    return name.startswith("layers.") and (layer_index(name) or 0) < config.keep_first


def _joined(config: MergeConfig, tasks: Tensor) -> Tensor:
    if config.method == "dare_linear":
        return linear(tasks[0], tasks[1], config.weights)
    return disjoint_sum(tasks, elect_signs(tasks), config.weights)


def _sparsifiers(config: MergeConfig, name: str, elements: int, read: Read) -> tuple[Callable[[Tensor], Tensor], ...]:
    """What makes each of the two task vectors sparse, called on their stretches in order."""
    if config.method == "ties":
        tasks = (lambda: (vlm - base for vlm, _, base in read()), lambda: (expert - base for _, expert, base in read()))
        return tuple(trimmer(task, elements, config.density) for task in tasks)
    generator = tensor_generator(config.seed, name)
    masks = [keep_mask(elements, config.density, generator) for _ in range(2)]
    return tuple(_dropper(config, mask) for mask in masks)


def _dropper(config: MergeConfig, mask: Tensor) -> Callable[[Tensor], Tensor]:
    done = 0

    def keep(piece: Tensor) -> Tensor:
        nonlocal done
        done += piece.numel()
        return masked(piece, mask[done - piece.numel() : done], config.density, config.rescale)

    return keep
