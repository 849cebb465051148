"""Draws of a local model that depend on each row's own seed: not on its batch, nor on the rows beside it.

ℓ logits, T temperature, g standard Gumbel noise: argmax(ℓ/T + g) is a draw from softmax(ℓ/T) (Gumbel 1954).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor


class Draws(LogitsProcessor):
    """Adds noise to the logits of a greedy generation, row by row, so that its choices become draws."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        """One seed per row; ``temperature`` above 0."""
        self.temperature, self.seeds = temperature, seeds
        self._generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        """ℓ/T + g, with the next noise of every row. ``scores`` is rows x vocabulary, float32."""
        if not self._generators:
            self._generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        waits = torch.empty_like(scores)
        for row, generator in zip(waits, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores / self.temperature - waits.clamp_min(torch.finfo(waits.dtype).tiny).log()
