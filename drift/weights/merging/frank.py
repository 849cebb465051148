"""FRANK (arXiv 2505.16151): the weights of task arithmetic in closed form, layer by layer.

τ_V, τ_R: the task vectors of φ_VL and φ_reason in one layer; λ_V, λ_R their weights; α the decay of the prior. The
paper fits α to how much each layer attends to images; here it is given, as in its Tab. 7.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from drift.weights.merging.plan import MergePlan
from drift.weights.naming.layout import layer_index
from drift.weights.storage.finite import require_finite
from drift.weights.storage.streaming import PIECE_ELEMENTS, chunks, progress

Pair = tuple[float, float]
"""Of φ_VL and of φ_reason."""


def frank_weights(squares: Mapping[int, Pair], decay: float | None) -> dict[int, Pair]:
    """(λ_V, λ_R) of each layer from (‖τ_V‖², ‖τ_R‖²): λ_t = w_t‖τ_t‖² / (w_V‖τ_V‖² + w_R‖τ_R‖²), Eqs. 13 and 15.

    w_V = exp(−α l) / Σⱼ exp(−α j), w_R = 1 − w_V, l = 1 … L (Eq. 16); both equal without a decay. A layer that neither
    model changed is φ_VL's.
    """
    order = sorted(squares)
    priors = [math.exp(-decay * place) for place, _ in enumerate(order, 1)] if decay else [0.5] * len(order)
    whole = math.fsum(priors) if decay else 1.0
    weights = {}
    for layer, prior in zip(order, priors, strict=True):
        vlm, expert = prior / whole * squares[layer][0], (1 - prior / whole) * squares[layer][1]
        weights[layer] = (vlm / (vlm + expert), expert / (vlm + expert)) if vlm + expert else (1.0, 0.0)
    return weights


def weights_in(todo: MergePlan) -> dict[str, tuple[float, ...]]:
    """FRANK's weights of every tensor that is merged, from one reading of all.

    Raises CheckpointError if a tensor holds NaN or infinity.
    """
    layers = {name: layer_index(name) or 0 for name in todo.canonical.values()}
    squares: dict[int, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))
    with progress("merge: norms", sum(todo.vlm.tensors[own].size_bytes for own in todo.canonical)) as bar:
        for own, name in todo.canonical.items():
            squares[layers[name]] += _squares(todo, own, name)
            bar.advance(todo.vlm.tensors[own].size_bytes)
    pairs = {layer: (float(both[0]), float(both[1])) for layer, both in squares.items()}
    by_layer = frank_weights(pairs, todo.config.decay)
    return {name: by_layer[layer] for name, layer in layers.items()}


def _squares(todo: MergePlan, own: str, name: str) -> Tensor:
    """(‖τ_V‖², ‖τ_R‖²) of one tensor."""
    models = todo.sources(own, name)
    sums = torch.zeros(2, dtype=torch.float64)
    for stretch in zip(*(model.pieces(there, PIECE_ELEMENTS) for model, there in models), strict=True):
        for vlm, expert, base in chunks(*stretch):
            vlm -= base
            expert -= base
            sums += torch.stack([vlm @ vlm, expert @ expert])
    if not sums.isfinite().all():
        for model, there in models:
            require_finite(model, there)
    return sums
