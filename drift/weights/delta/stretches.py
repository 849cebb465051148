"""Δ of one tensor, one stretch after the other: read, subtracted, and of several experts mixed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from drift.weights.pairing import DeltaPlan, Source
from drift.weights.storage.checkpoints import Checkpoint
from drift.weights.storage.streaming import PIECE_ELEMENTS, ahead, distance, of_length, tensor_generator


def mixing_factors(norms: Sequence[float], weights: Sequence[float]) -> list[float]:
    """fᵢ of Δ = Σ fᵢ Δᵢ over several experts, for one tensor: fᵢ = (wᵢ/W) · m/‖Δᵢ‖₂.

    W = Σ|wᵢ|, m = Σ|wᵢ|‖Δᵢ‖₂ / W. The direction is that of Σ wᵢ Δᵢ/‖Δᵢ‖₂: no expert leads because it moved further.
    The length is not that of unit directions: a projection of 1, and the scale `absolute`, then mean what they mean
    with one expert. n equal experts give that expert's Δ; two orthogonal ones of equal norm and weight are both at
    projection 1. An expert that did not change this tensor (norm 0) adds nothing.
    """
    whole = math.fsum(abs(weight) for weight in weights)
    mean = math.fsum(abs(weight) * norm for weight, norm in zip(weights, norms, strict=True)) / whole
    return [weight / whole * mean / norm if norm else 0.0 for weight, norm in zip(weights, norms, strict=True)]


def parts(todo: DeltaPlan, source: Source) -> Iterator[tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]]:
    """Δ, φ_VL and the (expert, other) pairs of one tensor, flat, one stretch after the other.

    With `shuffle` the elements of a stretch of Δ, of `PIECE_ELEMENTS` or the whole tensor, change places. Each tensor
    is read once (twice for several experts) in a thread ahead, into memory of its own: use a stretch before the next.
    """
    factors, seed = _factors(todo, source), todo.config.shuffle
    places = None if seed is None else tensor_generator(seed, source.name)
    room = torch.empty(PIECE_ELEMENTS, dtype=source.dtype)
    for start, at in zip(itertools.count(0, PIECE_ELEMENTS), _read(todo, source), strict=False):
        pairs = [(at[expert], at[other]) for expert, other in _places(todo, source)]
        delta = room[: pairs[0][0].numel()]
        if factors is None:
            torch.sub(*pairs[0], out=delta)
        else:
            delta.copy_(mix(factors, pairs))
        delta[max(0, source.common - start) :] = 0
        if places is not None:
            delta = delta[torch.randperm(len(delta), generator=places)]
        yield delta, at[todo.vlm, source.vlm], pairs


Place = tuple[Checkpoint, str]
"""A tensor: its checkpoint, and its name there."""


def _places(todo: DeltaPlan, source: Source) -> list[tuple[Place, Place]]:
    """Where the two tensors of each difference are."""
    named = zip(todo.pairs, source.pairs, strict=True)
    return [((pair.expert, expert), (pair.other, other)) for pair, (expert, other) in named]


def wanted(todo: DeltaPlan, source: Source) -> list[Place]:
    """All that one tensor of Δ needs, each once: φ_VL's first."""
    return list(dict.fromkeys([(todo.vlm, source.vlm), *itertools.chain(*_places(todo, source))]))


def _read(todo: DeltaPlan, source: Source) -> Iterator[dict[Place, Tensor]]:
    """The same stretch of every tensor that one tensor of Δ needs; what is needed twice is read once.

    Rows that not all models have are φ_VL's in each.
    """
    places, left = wanted(todo, source), source.common
    read = (model.pieces(name, PIECE_ELEMENTS) for model, name in places)
    whole = math.prod(source.shape)
    for stretch in ahead(zip(*(of_length(stream, PIECE_ELEMENTS, whole) for stream in read), strict=True)):
        for piece in stretch[1:]:
            piece[max(0, left) :] = stretch[0][max(0, left) :]
        left -= len(stretch[0])
        yield dict(zip(places, stretch, strict=True))


def _factors(todo: DeltaPlan, source: Source) -> list[float] | None:
    """The factors of several experts; None where Δ is one raw difference."""
    if not todo.config.experts:
        return None
    places = _places(todo, source)
    norms = [[distance(at[expert], at[other]) for expert, other in places] for at in _read(todo, source)]
    return mixing_factors([math.hypot(*some) for some in zip(*norms, strict=True)], [p.weight for p in todo.pairs])


def mix(factors: Sequence[float], pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Σ fᵢ (φᵢ − φ_other,ᵢ) in float32 (float64 for float64 tensors), of one stretch."""
    mixed = torch.zeros_like(pairs[0][0], dtype=torch.promote_types(pairs[0][0].dtype, torch.float32))
    for factor, (expert, other) in zip(factors, pairs, strict=True):
        mixed += factor * (expert.to(mixed.dtype) - other.to(mixed.dtype))
    return mixed
