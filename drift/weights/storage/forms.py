"""How a tensor of Δ lies in its file: whole, as two factors of a rank, or in 8 bits with a scale for each row.

Its parts are named by the tensor's canonical name and an ending: `left` (rows, R) and `right` (R, columns), whose
product it is; or 8-bit values under the name itself, and `scale`, by which each row of them is multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from drift.config.models import DeltaConfig
from drift.weights.storage.streaming import tensor_generator

WHOLE, LEFT, RIGHT, SCALE = "", ".left", ".right", ".scale"

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Dtype and shape of each part, by its ending."""

_BYTES = {"int8": (torch.int8, 127.0), "float8_e4m3fn": (torch.float8_e4m3fn, 448.0)}
"""Of each 8-bit type: what a row's largest element becomes."""
_ITERATIONS = 4


@dataclass(frozen=True)
class Form:
    """A tensor of Δ as it is stored; ``parts`` by their endings."""

    parts: Mapping[str, Tensor]

    def whole(self) -> Tensor:
        """The tensor: as stored if it is stored whole, else in float32 (float64 for factors of that)."""
        if LEFT in self.parts:
            left, right = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in self.factors)
            return left @ right
        values = self.parts[WHOLE]
        return values.float() * self.parts[SCALE].unsqueeze(-1) if SCALE in self.parts else values

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Left and right."""
        return self.parts[LEFT], self.parts[RIGHT]

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())

    def to(self, device: torch.device) -> Form:
        """The same on another device."""
        return Form({ending: part.to(device) for ending, part in self.parts.items()})


def layout(config: DeltaConfig, shape: tuple[int, ...], dtype: torch.dtype) -> Layout:
    """The parts that a tensor of Δ of this shape and dtype is stored in.

    Vectors are stored whole; so are tensors that are no matrix or that two factors would not make smaller (`rank`).
    """
    if config.dtype and len(shape) > 1:
        return {WHOLE: (_BYTES[config.dtype][0], shape), SCALE: (torch.float32, shape[:-1])}
    if config.rank and len(shape) == 2 and config.rank * sum(shape) < math.prod(shape):
        return {LEFT: (dtype, (shape[0], config.rank)), RIGHT: (dtype, (config.rank, shape[1]))}
    return {WHOLE: (dtype, shape)}


def shortened(whole: Tensor, config: DeltaConfig, name: str) -> Form:
    """A tensor of Δ in its `layout`."""
    parts = layout(config, tuple(whole.shape), whole.dtype)
    if SCALE in parts:
        return _in_bytes(whole, str(config.dtype))
    return _of_rank(whole, config.rank or 0, name) if LEFT in parts else Form({WHOLE: whole})


def _in_bytes(whole: Tensor, kind: str) -> Form:
    """value = scale · byte, the scale of a row so that its largest element is the type's; of a row of zeros 0."""
    dtype, largest = _BYTES[kind]
    wide = whole.float()
    scale = wide.abs().amax(dim=-1) / largest
    wide = wide / scale.where(scale > 0, 1.0).unsqueeze(-1)
    values = wide.round_() if dtype == torch.int8 else wide
    return Form({WHOLE: values.clamp_(-largest, largest).to(dtype), SCALE: scale})


def _of_rank(whole: Tensor, rank: int, name: str) -> Form:
    """(M V, Vᵀ) = (U S, Vᵀ) of the leading singular directions V of a matrix M.

    By a randomised method over twice as many directions, whose draw is the tensor's own, where that is fewer than all.
    """
    matrix = whole.to(torch.promote_types(whole.dtype, torch.float32))
    if 2 * rank < min(matrix.shape):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(tensor_generator(0, name).initial_seed())
            _, _, directions = torch.svd_lowrank(matrix, q=2 * rank, niter=_ITERATIONS)
    else:
        directions = torch.linalg.svd(matrix, full_matrices=False).Vh.T
    right = directions[:, :rank].T.to(whole.dtype).contiguous()
    return Form({LEFT: (matrix @ directions[:, :rank]).to(whole.dtype), RIGHT: right})
