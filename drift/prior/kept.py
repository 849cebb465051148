"""What a rank keeps of Δ for its part of one parameter: as few bytes as Δ's file has, made a tensor when it is needed.

Whole tensors and 8-bit ones are cut as the parameter is; of two factors each rank keeps both, which are small, and
cuts their product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drift.weights.storage.forms import LEFT, SCALE, WHOLE, Form


@dataclass(frozen=True)
class Kept:
    """The part of one tensor of Δ, as ``tensors`` from which ``make`` makes it, flat."""

    tensors: tuple[Tensor, ...]
    make: Callable[..., Tensor]

    @property
    def size_bytes(self) -> int:
        """Bytes that stay in memory."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def flat(self) -> Tensor:
        """The part itself."""
        return self.make(*self.tensors)


class Pieces:
    """The flat parts, each made when it is asked for and forgotten after."""

    def __init__(self, kept: Sequence[Kept]) -> None:
        self._kept = kept

    def __iter__(self) -> Iterator[Tensor]:
        return (kept.flat() for kept in self._kept)

    def __getitem__(self, place: int) -> Tensor:
        return self._kept[place].flat()

    def __len__(self) -> int:
        return len(self._kept)


def keep(form: Form, part: Callable[[Tensor], Tensor], device: torch.device) -> Kept:
    """What ``part`` cuts out of a stored tensor, on ``device``, in the form that it is stored in."""
    if LEFT in form.parts:
        return Kept(form.to(device).factors, lambda left, right: part(left.float() @ right.float()))
    if SCALE in form.parts:
        return _keep_bytes(form, part, device)
    return Kept((part(form.whole()).to(device, copy=True),), lambda whole: whole)


def _keep_bytes(form: Form, part: Callable[[Tensor], Tensor], device: torch.device) -> Kept:
    """Wherever the part lies, its elements are runs of rows: a scale for each run, and how long it is."""
    whole, scale = form.parts[WHOLE], form.parts[SCALE].flatten()
    rows = torch.arange(len(scale), dtype=torch.int32).unsqueeze(-1).expand(-1, whole.shape[-1]).reshape(whole.shape)
    runs, lengths = torch.unique_consecutive(part(rows), return_counts=True)
    values = part(whole.view(torch.uint8)).to(device, copy=True).view(whole.dtype)
    count = values.numel()

    def make(values: Tensor, scales: Tensor, lengths: Tensor) -> Tensor:
        return values.float() * scales.repeat_interleave(lengths, output_size=count)

    return Kept((values, scale[runs.long().cpu()].to(device), lengths.int().to(device)), make)
