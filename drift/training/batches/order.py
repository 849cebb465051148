"""In which order rows are trained on, and what ranks do that are left without one at the end of an epoch.

All ranks take equally many rows a step. Symbols: n rows, N ranks, B rows of a rank in a micro-batch; the last round of
an epoch lacks −n mod (N·B) rows. With the loss per token those places are filled by rows that nothing is learned from:
the epoch is that of one process. With a loss per micro-batch, where a batch without a token has no mean, accelerate
begins again with the first rows, as the released code's trainer does; how many is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from drift.training.batches.collate import IGNORE

logger = logging.getLogger(__name__)

FILLS = "fills"
"""Key of a row that only fills its place."""

Collate = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


def places_to_fill(rows: int, batch: int, ranks: int) -> int:
    """−n mod (N·B): what the last round of an epoch lacks; one rank takes a batch that is not full."""
    return -rows % (batch * ranks) if ranks > 1 else 0


class Filled(Dataset[dict[str, Any]]):
    """``rows``, and behind their end the first ones again, marked as fillings."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.rows[index % len(self.rows)]
        return {**row, FILLS: True} if index >= len(self.rows) else row


class WithoutFillings:
    """A collator that learns nothing from rows that only fill their place."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.collate(rows)
        for position, row in enumerate(rows):
            if FILLS in row:
                batch["labels"][position] = IGNORE
        return batch


class RowOrder(Sampler[int]):
    """The places of all rows in an order that follows from seed and epoch alone, then ``fill`` places behind their end.

    Without ``group`` that of accelerate's SeedableRandomSampler. With it rows of like length stand together, so that
    each ``group`` of them (a step's) is padded little; the longest come first.
    """

    def __init__(self, lengths: Sequence[int], *, seed: int, fill: int = 0, group: int | None = None) -> None:
        self.lengths, self.seed, self.fill, self.group = list(lengths), seed, fill, group
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + self.fill

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from self._shuffled(generator)
        yield from range(len(self.lengths), len(self))

    def _shuffled(self, generator: torch.Generator) -> list[int]:
        if self.group is None:
            return torch.randperm(len(self.lengths), generator=generator).tolist()
        from transformers.trainer_pt_utils import get_length_grouped_indices

        return list(get_length_grouped_indices(self.lengths, self.group, generator=generator))
