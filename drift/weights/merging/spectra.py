"""What FRISM and IP-Merging leave of the expert's task vector: pure functions of whole matrices, in float32.

τ_R, τ_V: the task vectors of φ_reason and φ_VL in one matrix [m, n]; τ = U diag(σ) Vᵀ, σ from the largest on.
Directions come from the Gram matrix of the shorter side in float64: σ below 1e-8 of the largest count as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RANK = 1024
"""Leading directions that IP-Merging looks at."""
SHARPNESS = 32.0
"""Of its softmax over similarities."""
_COLUMNS = 1 << 10


def gated(task: Tensor, gates: Sequence[float]) -> Tensor:
    """U diag(g ⊙ σ) Vᵀ of τ_R: what FRISM (arXiv 2601.21187, Eq. 7) adds to φ_VL, with g = σ(its learned gates).

    ``gates`` are those of equal shares of the min(m, n) directions, from the largest σ on. Equal ones need no
    decomposition: g · τ_R.
    """
    if len(set(gates)) == 1:
        return gates[0] * task
    wide = task.shape[0] < task.shape[1]
    tall = task.T if wide else task
    _, directions = _spectrum(tall)
    places = torch.arange(directions.shape[1]) * len(gates) // directions.shape[1]
    scales = torch.tensor(gates, dtype=torch.float64)[places]
    kept = tall @ ((directions * scales) @ directions.T).float()
    return kept.T if wide else kept


def projected(vlm: Tensor, expert: Tensor, threshold: float, rank: int = RANK) -> Tensor:
    """(Σσ_V / Σσ_R) τ_R Qᵀ Q: τ_R in the space of τ_V's right singular directions, weighted by how alike they are.

    IP-Merging (arXiv 2510.14387) over the leading ``rank`` directions: c_i = |⟨v_R,i, v_V,i⟩|, Q = diag(softmax(32 c))
    V_Vᵀ, and 0 if no c_i reaches ``threshold``. The absolute value, since the sign of a singular vector is arbitrary.
    """
    (sigma_vlm, right_vlm), (sigma_expert, right_expert) = (_leading(task, rank) for task in (vlm, expert))
    alike = (right_expert * right_vlm).sum(dim=0).abs()
    if not sigma_expert.any() or alike.max() < threshold:
        return torch.zeros_like(expert)
    scale = sigma_vlm.sum() / sigma_expert.sum()
    inside = (expert.double() @ right_expert) @ (right_expert.T @ right_vlm)
    return (scale * (inside * torch.softmax(SHARPNESS * alike, dim=0) ** 2) @ right_vlm.T).float()


def _leading(task: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(σ, V) of at most ``rank`` leading directions; those of σ = 0 are 0."""
    wide = task.shape[0] < task.shape[1]
    sigma, directions = (part[..., :rank] for part in _spectrum(task.T if wide else task))
    if wide:
        directions = task.T.double() @ directions / sigma.where(sigma > 0, 1)
    return sigma, directions * (sigma > 0)


def _spectrum(tall: Tensor) -> tuple[Tensor, Tensor]:
    """(σ, V) of a matrix of at least as many rows as columns, in float64, from the largest σ on."""
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64)
    for rows in tall.split(_COLUMNS):
        wide = rows.double()
        gram += wide.T @ wide
    squares, directions = torch.linalg.eigh(gram)
    sigma = squares.clamp(min=0).sqrt()
    sigma = sigma.where(sigma > 1e-8 * sigma[-1], 0)
    return sigma.flip(0), directions.flip(1)
