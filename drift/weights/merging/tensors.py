"""One tensor of a merged decoder, a stretch at a time, in float32: norms and biases like projections.

A stretch is φ_VL, φ_reason and, for methods over differences, φ_base, flat. A method reads the tensor as often as it
must before, and gives a function from a stretch to the merged one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drift.config.models import MergeConfig, MergeMethod
from drift.weights.merging.formulas import disjoint_sum, elect_signs, linear, slerp_factors, task_arithmetic
from drift.weights.merging.sparse import (
    drop_by_magnitude,
    keep_mask,
    masked,
    trimmer,
    whole_rows,
)
from drift.weights.merging.spectra import gated, projected
from drift.weights.naming.layout import layer_index
from drift.weights.storage.finite import is_finite
from drift.weights.storage.streaming import chunks, pieces, tensor_generator

Read = Callable[[], Iterable[Sequence[Tensor]]]
"""Read the stretches of every model from the beginning."""
Combine = Callable[[Sequence[Tensor]], Tensor]
"""From a stretch of every model, in order, to the merged one."""


@dataclass(frozen=True)
class Job:
    """One tensor to merge, by its canonical name."""

    config: MergeConfig
    name: str
    shape: tuple[int, ...]
    weights: Sequence[float]
    """Of φ_VL and φ_reason."""
    read: Read

    @property
    def width(self) -> int:
        """Elements of a row; a vector is one row."""
        return self.shape[-1] if self.shape else 1


def merge_tensor(config: MergeConfig, name: str, vlm: Tensor, expert: Tensor, base: Tensor | None) -> Tensor:
    """One tensor of the merged decoder, in float32, from float32 tensors of equal shape."""
    tensors = [vlm, expert] if base is None else [vlm, expert, base]
    job = Job(config, name, tuple(vlm.shape), config.weights, functools.partial(pieces, *tensors))
    return torch.cat([merged for _, merged in merge_pieces(job)]).reshape(vlm.shape)


def merge_pieces(job: Job) -> Iterator[tuple[Tensor, Tensor]]:
    """(φ_VL, merged), a stretch at a time; how often it is read before says docs/merging.md."""
    combine = _METHODS[job.config.method](job)
    by_rows = job.config.method in ("della", "della_linear")
    for stretch in whole_rows(job.read(), job.width) if by_rows else job.read():
        yield stretch[0], combine(stretch)


def _linear(job: Job) -> Combine:
    return lambda models: linear(models, job.weights)


def _layer_swap(job: Job) -> Combine:
    stays = job.name.startswith("layers.") and (layer_index(job.name) or 0) < job.config.keep_first
    return (lambda models: models[0].clone()) if stays else _linear(job)


def _slerp(job: Job) -> Combine:
    sums = torch.zeros(3, dtype=torch.float64)
    for stretch in job.read():
        for vlm, expert in chunks(*stretch):
            sums += torch.stack([vlm @ vlm, expert @ expert, vlm @ expert])
    vlm_squared, expert_squared, dot = sums.tolist()
    factors = slerp_factors(vlm_squared**0.5, expert_squared**0.5, dot, job.weights[1])
    return lambda models: linear(models, factors)


def _task_arithmetic(job: Job) -> Combine:
    return lambda models: task_arithmetic(models[:-1], models[-1], job.weights)


def _ties(job: Job) -> Combine:
    tasks = [functools.partial(_task, job.read, place) for place, _ in enumerate(job.weights)]
    elements = torch.Size(job.shape).numel()
    return _sparse_sum(job, [trimmer(task, elements, job.config.density) for task in tasks])


def _task(read: Read, place: int) -> Iterator[Tensor]:
    """One model's task vector."""
    return (models[place] - models[-1] for models in read())


def _dare(job: Job) -> Combine:
    generator, elements = tensor_generator(job.config.seed, job.name), torch.Size(job.shape).numel()
    masks = [keep_mask(elements, job.config.density, generator) for _ in job.weights]
    return _sparse_sum(job, [_masker(job.config, mask) for mask in masks])


def _masker(config: MergeConfig, mask: Tensor) -> Callable[[Tensor], Tensor]:
    take = _following(mask)
    return lambda piece: masked(piece, take(piece.numel()), config.density, config.rescale)


def _following(flat: Tensor) -> Callable[[int], Tensor]:
    """The next so many elements, from the first on."""
    done = 0

    def take(elements: int) -> Tensor:
        nonlocal done
        done += elements
        return flat[done - elements : done]

    return take


def _della(job: Job) -> Combine:
    generators = [tensor_generator(job.config.seed, f"{job.name}:{place}") for place, _ in enumerate(job.weights)]
    return _sparse_sum(job, [functools.partial(_drop_rows, job, generator) for generator in generators])


def _drop_rows(job: Job, generator: torch.Generator, piece: Tensor) -> Tensor:
    config, rows = job.config, piece.view(-1, job.width)
    return drop_by_magnitude(rows, config.density, config.epsilon, generator, rescale=config.rescale).reshape(-1)


def _sparse_sum(job: Job, keep: Sequence[Callable[[Tensor], Tensor]]) -> Combine:
    """φ_base and the task vectors, each made sparse by its own of ``keep``: their sum, or TIES' of agreeing ones."""
    agree = job.config.method not in ("dare_linear", "della_linear")

    def combine(models: Sequence[Tensor]) -> Tensor:
        *tuned, base = models
        tasks = [sparse(model - base) for sparse, model in zip(keep, tuned, strict=True)]
        if not agree:
            return base + linear(tasks, job.weights)
        stacked = torch.stack(tasks)
        return base + disjoint_sum(stacked, elect_signs(stacked), job.weights)

    return combine


def _frism(job: Job) -> Combine:
    return _with_task(job, lambda vlm, expert: gated(expert, job.config.gates))


def _ip_merging(job: Job) -> Combine:
    return _with_task(job, lambda vlm, expert: projected(vlm, expert, job.config.threshold))


def _with_task(job: Job, change: Callable[[Tensor, Tensor], Tensor]) -> Combine:
    """φ_base + λ₁ τ_V + λ₂ τ, where τ = ``change``(τ_V, τ_R) of whole matrices."""
    vlm, expert = (torch.cat(list(_task(job.read, place))).view(job.shape) for place in range(2))
    finite = bool(is_finite(vlm)) and bool(is_finite(expert))
    take = _following((change(vlm, expert) if finite else vlm + expert).reshape(-1))

    def combine(models: Sequence[Tensor]) -> Tensor:
        first, _, base = models
        return task_arithmetic([first, base + take(base.numel())], base, job.weights)

    return combine


_METHODS: Mapping[MergeMethod, Callable[[Job], Combine]] = {
    "linear": _linear,
    "layer_swap": _layer_swap,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare_ties": _dare,
    "dare_linear": _dare,
    "della": _della,
    "della_linear": _della,
    "frank": _task_arithmetic,
    "frism": _frism,
    "ip_merging": _ip_merging,
    "delta": _linear,
}
