"""Which tensor holds NaN or infinity, in a network or in a file, by its name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.ground.errors import CheckpointError
from drift.weights.storage.checkpoints import Checkpoint, Stored
from drift.weights.storage.headers import DTYPE_NAMES
from drift.weights.storage.streaming import PIECE_ELEMENTS


def is_finite(tensor: Tensor) -> Tensor:
    """Whether no element is NaN or infinite: a boolean on the tensor's device, so nobody waits for that.

    One pass and no copy: a tensor's extremes are NaN if one of its elements is. Integers and no elements are finite.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    wide = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # torch finds no extremes of 8 bits
    return torch.stack(torch.aminmax(wide.detach())).isfinite().all()


def first_not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first name whose tensor holds NaN or infinity; of a sharded one this rank's part is looked at."""
    parts = {name: is_finite(_own_part(tensor)) for name, tensor in named}
    if not parts:
        return None
    place = next(iter(parts.values())).device
    verdicts = torch.stack([verdict.to(place) for verdict in parts.values()]).tolist()  # waits for the device, once
    return next((name for name, finite in zip(parts, verdicts, strict=True) if not finite), None)


def require_finite(checkpoint: Stored, name: str) -> None:
    """Raise CheckpointError if the tensor of this name on disk holds NaN or infinity; read a stretch at a time."""
    info = checkpoint.tensors[name]
    if info.dtype in DTYPE_NAMES and not all(is_finite(piece) for piece in checkpoint.pieces(name, PIECE_ELEMENTS)):
        raise CheckpointError(f"{info.file}: '{name}' holds NaN or infinity; the checkpoint is broken, take another")


def require_finite_network(path: str | Path, network: Any) -> None:
    """Raise CheckpointError if a parameter of ``network``, loaded from ``path``, is NaN or infinite.

    The error names the tensor as its file does; the files are only read for that.
    """
    broken = first_not_finite(network.named_parameters())
    if broken is None:
        return
    checkpoint = Checkpoint(path)
    for name in checkpoint.tensors:
        require_finite(checkpoint, name)
    raise CheckpointError(
        f"{path}: '{broken}' is too large for {network.get_parameter(broken).dtype}; load it in its own dtype"
    )


def _own_part(parameter: Any) -> Tensor:
    """What of a parameter is on this rank: FSDP2's and ZeRO-3's are sharded."""
    from torch.distributed.tensor import DTensor  # a third of what `drift delta` would load, for no network

    if isinstance(parameter, DTensor):
        return parameter.to_local()
    part: Tensor = getattr(parameter, "ds_tensor", parameter)
    return part
