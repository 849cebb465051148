"""φ_VL + c·Δ of a rank as a LoRA adapter of φ_VL: the factors of a stored Δ under peft's names, no copy of φ_VL.

Symbols: Δ = L·R a matrix of it, L (out, r) and R (r, in) as they lie in Δ's file, c its factor. peft adds s·B·A with
s = α/r; here B = L, A = R and s = c.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.config.models import ADAPTER_CONFIG, MergeConfig
from drift.ground.artifacts import staged, write_json, write_provenance
from drift.ground.errors import CheckpointError, ConfigError
from drift.weights.delta.deltafile import DeltaFile, load_delta
from drift.weights.merging.plan import plan_merge
from drift.weights.modeling import empty_model, linear_weights
from drift.weights.naming.layout import kinds_in_layers, layer_index, match_parameters
from drift.weights.storage.adapters import WEIGHTS, base_named
from drift.weights.storage.checkpoints import Checkpoint, original_vlm_sha256
from drift.weights.storage.forms import LEFT, WHOLE
from drift.weights.storage.streaming import DTYPES, created, encode_header, require_space, write_tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterReport:
    """What became an adapter: matrices, tensors of Δ that it does not have, and bytes of its factors."""

    folder: Path
    tensors: int
    left_out: int
    bytes: int
    seconds: float
    warnings: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Flat names for MLflow."""
        return {f"adapter/{name}": float(getattr(self, name)) for name in ("tensors", "left_out", "bytes", "seconds")}


@dataclass(frozen=True)
class _Matrix:
    """A matrix of Δ, by its canonical name, and the module of the running model that it is the weight of."""

    name: str
    module: str
    shape: tuple[int, ...]
    rank: int
    dtype: torch.dtype
    factor: float

    @property
    def stored(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of A and B, by their names in the adapter's file."""
        stem = f"base_model.model.{self.module}"
        a, b = (self.rank, self.shape[1]), (self.shape[0], self.rank)
        return {f"{stem}.lora_A.weight": (self.dtype, a), f"{stem}.lora_B.weight": (self.dtype, b)}

    @property
    def size_bytes(self) -> int:
        """Of both factors."""
        return self.rank * sum(self.shape) * self.dtype.itemsize


def merge_as_adapter(config: MergeConfig, *, vlm: str, delta: Path | None, out: Path) -> AdapterReport:
    """Write φ_VL + c·Δ (method `delta`) as a folder that peft loads over φ_VL; c is Δ's factor in a tensor's weights.

    Δ is one of a rank. Its matrices of linear layers are taken as they are stored; what a LoRA cannot move (biases,
    norms, embeddings, fused experts) is left out, counted and warned of. Raises ConfigError for another method,
    CheckpointError for a Δ without factors or a φ_VL that transformers does not know, and what `plan_merge` raises.
    """
    started = time.monotonic()
    if config.method != "delta" or delta is None:
        raise ConfigError(f"method: '{config.method}' makes no adapter; give method delta and a Δ (drift delta --rank)")
    todo, prior = plan_merge(config, expert=None, vlm=vlm, base=None, delta=delta), load_delta(delta)
    matrices = _matrices(todo.vlm, prior, {name: weights[1] for name, weights in todo.weights.items()})
    warnings = _left_out(prior, matrices)
    for warning in warnings:
        logger.warning("merge: %s", warning)
    with staged(out) as folder:
        _write_factors(folder, prior, matrices)
        write_json(folder / ADAPTER_CONFIG, base_named(todo.vlm) | _config(matrices, config.weights[1]))
        write_provenance(
            folder,
            "merge",
            config=config.model_dump(mode="json"),
            inputs={"vlm": todo.vlm.path, "delta": prior.folder},
            original_vlm_sha256=original_vlm_sha256(todo.vlm.path),
            warnings=list(warnings),
        )
    size = sum(matrix.size_bytes for matrix in matrices)
    left = len(prior.names) - len(matrices)
    return AdapterReport(out, len(matrices), left, size, time.monotonic() - started, warnings)


def _matrices(vlm: Checkpoint, prior: DeltaFile, factors: Mapping[str, float]) -> list[_Matrix]:
    """What of Δ is the weight of a linear layer at run time. Raises CheckpointError if nothing of it has factors."""
    if not any(LEFT in parts for parts in prior.parts.values()):
        raise CheckpointError(f"{prior.folder}: Δ is not of a rank; compute it with one (drift delta --rank R)")
    model = empty_model(vlm.path)
    if model is None:
        raise CheckpointError(
            f"{vlm.path}: unknown to transformers, so that no adapter can name its layers; merge whole"
        )
    linear = linear_weights(model)
    partners = match_parameters({name: tuple(p.shape) for name, p in model.named_parameters()}, prior.shapes)
    chosen = [name for name in prior.names if partners[name] in linear]
    return [_matrix(prior, name, partners[name].removesuffix(".weight"), factors[name]) for name in chosen]


def _matrix(prior: DeltaFile, name: str, module: str, factor: float) -> _Matrix:
    """One that two factors would not have made smaller is stored whole: its own product with the unit matrix."""
    parts, shape = prior.parts[name], prior.shapes[name]
    rank = parts[LEFT].shape[1] if LEFT in parts else min(shape)
    return _Matrix(name, module, shape, rank, DTYPES[next(iter(parts.values())).dtype], factor)


def _left_out(prior: DeltaFile, matrices: Sequence[_Matrix]) -> tuple[str, ...]:
    """A sentence about what of Δ the adapter does not have."""
    left = [name for name in prior.names if name not in {matrix.name for matrix in matrices}]
    if not left:
        return ()
    kinds = [*kinds_in_layers(left), *(name for name in left if layer_index(name) is None)]
    share = sum(prior.stats[name]["l2"] ** 2 for name in left) / prior.squared_l2
    return (
        f"a LoRA moves matrices of linear layers alone: {len(left)} tensors of Δ ({share:.2%} of ‖Δ‖²) are not in the "
        f"adapter ({', '.join(kinds)}); a merge without --as-adapter has them",
    )


def _write_factors(folder: Path, prior: DeltaFile, matrices: Sequence[_Matrix]) -> None:
    stored = {name: part for matrix in matrices for name, part in matrix.stored.items()}
    header = encode_header(stored, {"format": "pt"})
    size = len(header) + sum(matrix.size_bytes for matrix in matrices)
    require_space(folder, size)
    with created(folder / WEIGHTS, size) as stream:
        stream.write(header)
        for matrix in matrices:
            left, right = _factors(prior, matrix)
            write_tensor(stream, right)
            write_tensor(stream, left)


def _factors(prior: DeltaFile, matrix: _Matrix) -> tuple[Tensor, Tensor]:
    """L and R."""
    form = prior.form(matrix.name)
    if LEFT in form.parts:
        return form.factors
    whole, unit = form.parts[WHOLE], torch.eye(matrix.rank, dtype=matrix.dtype)
    return (unit, whole) if matrix.shape[0] == matrix.rank else (whole, unit)


def _config(matrices: Sequence[_Matrix], factor: float) -> dict[str, Any]:
    """peft's `LoraConfig`: its α is c·r, and the patterns name the modules of another rank or factor."""
    rank = min(matrix.rank for matrix in matrices)
    alphas = {matrix.module: matrix.factor * matrix.rank for matrix in matrices}
    return {
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {matrix.module: matrix.rank for matrix in matrices if matrix.rank != rank},
        "lora_alpha": factor * rank,
        "alpha_pattern": {module: alpha for module, alpha in alphas.items() if alpha != factor * rank},
        "target_modules": sorted(alphas),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
