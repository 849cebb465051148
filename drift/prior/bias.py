"""One guided step: the sums over all ranks, the coefficients, g ← g + c·Δ in place, and a note of what they were.

Symbols: K the number of guided tensors; all vectors have K float32 elements, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from drift.config.train import PriorConfig
from drift.ground.errors import PriorError
from drift.prior import gradient
from drift.prior.directions import Directions, LoraDirections, all_reduce
from drift.prior.shards import Shard
from drift.prior.sums import dot, square

NOTED = ("cos", "alpha", "bias_norm", "grad_norm")


class Bias:
    """The arithmetic for ``shards``, this rank's parts of the guided parameters, summed over ``group``."""

    def __init__(
        self, config: PriorConfig, directions: Directions | LoraDirections, shards: Sequence[Shard], group: object
    ) -> None:
        self._scale, self._directions, self._shards, self._group = config.scale, directions, shards, group
        device = shards[0].owner.device if shards else torch.device("cpu")
        self._places = torch.tensor([shard.parameter for shard in shards], device=device, dtype=torch.long)
        self._vlm_norms = directions.vlm_norms(device) if config.rescale_to_weight else None
        self._count = len(directions.parameters)
        self.noted = {name: torch.zeros(self._count, device=device) for name in NOTED}
        self.acted = False

    def add(self, gradients: Sequence[Tensor | None], alpha: float | Tensor, loss_scale: float) -> Tensor:
        """Bias one flat gradient per shard (None: it has none); by how much ‖g‖² of the whole model grew.

        Without a synchronisation with the host; one all-reduce where parameters are sharded. Raises PriorError if
        nothing has a gradient. ``loss_scale`` is what the gradients are multiplied with.
        """
        pieces = self._directions.pieces()
        norms, dots = self._sums(gradients, pieces)
        scaled = alpha * loss_scale if self._scale == "absolute" else alpha  # the other scales grow with the gradient
        c = self._coefficients(slice(None), scaled, norms, dots)
        factors = c.unbind()
        for shard, piece, grad in zip(self._shards, pieces, gradients, strict=True):
            if grad is not None:
                gradient.add_bias_(grad, piece, factors[shard.parameter])
        return (2 * c * dots + (c * self._directions.norms(c.device)).square()).sum()

    def guided(self, place: int, grad: Tensor, alpha: float | Tensor) -> Tensor:
        """g~ of the whole gradient of shard number ``place``, out of place and of this rank alone."""
        result, piece = grad.clone(memory_format=torch.contiguous_format), self._directions.pieces()[place]
        squared, along = _square_and_dot(result.view(-1), piece).unsqueeze(1)
        number = self._shards[place].parameter
        c = self._coefficients(slice(number, number + 1), alpha, squared.sqrt(), along)
        gradient.add_bias_(result.view(-1), piece, c[0])
        return result

    def _sums(self, gradients: Sequence[Tensor | None], pieces: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """‖g‖ and ⟨g, Δ⟩ of the whole parameters."""
        if self._group is None and all(grad is None for grad in gradients):
            raise PriorError("no guided parameter has a gradient; is the text decoder part of the loss?")
        sums = torch.zeros(2, self._count, device=self._places.device)
        if self._shards:
            pairs = [_square_and_dot(grad, piece) for grad, piece in zip(gradients, pieces, strict=True)]
            sums.index_copy_(1, self._places, torch.stack(pairs, dim=1))
        squares, dots = all_reduce(sums, self._group)
        return squares.sqrt(), dots

    def _coefficients(self, ks: slice, alpha: float | Tensor, norms: Tensor, dots: Tensor) -> Tensor:
        """c of g~ = g + c·Δ for the parameters ``ks``; tensors without a gradient keep their older note."""
        delta_norms = self._directions.norms(norms.device)[ks]
        rescale_to = None if self._vlm_norms is None else self._vlm_norms[ks]
        c = gradient.coefficient(self._scale, alpha, norms, delta_norms, dots, rescale_to=rescale_to)
        cos = gradient.cosine(norms, delta_norms, dots)
        effective = gradient.effective_alpha(self._scale, alpha, cos)
        made_of = {"cos": cos, "alpha": effective, "bias_norm": c.abs() * delta_norms, "grad_norm": norms}
        for name, values in made_of.items():
            self.noted[name][ks] = torch.where(norms > 0, values, self.noted[name][ks])
        self.acted = True
        return c


def _square_and_dot(grad: Tensor | None, piece: Tensor) -> Tensor:
    """(‖g‖², ⟨g, Δ⟩) of one flat piece, float32, shape (2,); zeros where there is no gradient."""
    if grad is None:
        return torch.zeros(2, device=piece.device)
    return torch.stack([square(grad), dot(grad, piece)])
