"""Micro-batches as one sequence without padding, where the model keeps the rows of a sequence apart.

transformers does so by positions that begin anew with each row. Its Qwen-VL classes take them as a fourth kind beside
those of time, height and width. Whether a model does is tried on two rows before the first step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from drift.ground.errors import ConfigError
from drift.ground.torchvision import allow_cuda_torchvision_on_cpu
from drift.training.batches.collate import IGNORE
from drift.training.batches.order import Collate

allow_cuda_torchvision_on_cpu()  # before transformers, whose trainer imports it

from transformers import TrainerCallback  # noqa: E402

ALIKE = 0.05
"""Nats that a token may differ by: bfloat16 rounds, and a row that sees another differs by more."""


class Packed:
    """A collator whose batches (1, tokens of all rows) have no padding and no mask, but `position_ids`."""

    def __init__(self, collate: Collate, network: Any) -> None:
        self.collate = collate
        known = (module.get_rope_index for module in network.modules() if hasattr(module, "get_rope_index"))
        self.multimodal = next(known, None)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collate(rows)
        own = batch["attention_mask"].bool()
        text = torch.cat([torch.arange(int(tokens)) for tokens in own.sum(1)])[None]
        positions = text if self.multimodal is None else torch.cat([text[None], self._positions(batch, own)[:, None]])
        packed = {name: value[own][None] if value.shape == own.shape else value for name, value in batch.items()}
        packed.pop("attention_mask")
        packed["labels"][text == 0] = IGNORE  # else the row before would be asked for it
        return {**packed, "position_ids": positions, "use_cache": False}  # a cache hides where rows begin

    def _positions(self, batch: dict[str, torch.Tensor], own: torch.Tensor) -> torch.Tensor:
        """Of time, height and width (3, tokens of all rows); those of text alone are the same in all."""
        assert self.multimodal is not None
        if "image_grid_thw" not in batch:
            return (own.cumsum(1) - 1)[own].expand(3, -1)
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        found: torch.Tensor = self.multimodal(**{name: batch[name] for name in names if name in batch})[0]
        return found[:, own]


class RowsKeptApart(TrainerCallback):
    """Refuses to pack for a model that lets the rows of a sequence see each other."""

    def __init__(self, trainer: Any, unpacked: Collate) -> None:
        self.trainer, self.unpacked = trainer, unpacked

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises ConfigError."""
        rows = [self.trainer.train_dataset[place] for place in (0, len(self.trainer.train_dataset) - 1)]
        apart, packed = self._nats(self.unpacked(rows)), self._nats(self.trainer.data_collator(rows))
        if apart.shape != packed.shape or float((apart - packed).abs().max()) > ALIKE:
            raise ConfigError("train.packing: this model lets packed rows see each other; set it to false")

    def _nats(self, batch: dict[str, Any]) -> torch.Tensor:
        """Of each token of the answers, in the rows' order."""
        inputs = self.trainer._prepare_inputs(batch)
        labels = inputs.pop("labels")
        self.trainer.model_wrapped.eval()
        with torch.no_grad(), self.trainer.compute_loss_context_manager():
            logits = self.trainer.model_wrapped(**inputs).logits
        self.trainer.model_wrapped.train()
        learned = labels[:, 1:] != IGNORE
        return cross_entropy(logits[:, :-1][learned].float(), labels[:, 1:][learned], reduction="none")
