"""Training rows as batches: images and chat through the model's own processor, loss on the assistant only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from drift.config.train import TrainConfig
from drift.data.processed import Batch, processed, shown
from drift.data.rows import Chat, Piece, read_rows
from drift.ground.errors import DataError
from drift.inference.images import conversation
from drift.training.batches.lengths import counts_key, token_counts

logger = logging.getLogger(__name__)

IGNORE = -100
"""Label of the tokens that the loss leaves out; torch's and transformers' convention."""
STAND_IN_PIXELS = (56, 56)


class TrainingRows(Dataset[dict[str, Any]]):
    """The rows of a training set that fit into `cutoff_tokens`: `{id, kind, turns, images}` (`drift.data.rows`).

    A row is rendered and its images are decoded when it is asked for. Each has gone through the processor once, so that
    what is wrong with it is known. `lengths` are the rows' tokens.
    Raises DataError if the set is empty, a row cannot be used, or more than `max_skipped` are too long.
    """

    def __init__(self, training_set: Path, processor: Any, config: TrainConfig) -> None:
        self.max_pixels, self.processor, self.chat = config.image_max_pixels, processor, Chat(processor)
        self.rows = read_rows(training_set, processor)
        named = (image for row in self.rows for image in row["images"] if isinstance(image, Path))
        key = counts_key(training_set, processor, config.image_max_pixels, named)
        counts = token_counts(len(self.rows), self._length, key)
        fitting = [place for place, count in enumerate(counts) if count <= config.cutoff_tokens]
        self.skipped = len(counts) - len(fitting)
        if self.skipped > config.max_skipped * len(counts) or not fitting:
            raise DataError(
                f"{training_set}: {self.skipped} of {len(counts)} samples are longer than train.cutoff_tokens ="
                f" {config.cutoff_tokens} (longest {max(counts)}); raise it, or train.max_skipped ="
                f" {config.max_skipped}"
            )
        if self.skipped:
            logger.warning(
                "%d of %d samples are longer than %d tokens: left out", self.skipped, len(counts), config.cutoff_tokens
            )
        self.rows = [self.rows[place] for place in fitting]
        self.lengths = [counts[place] for place in fitting]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return shown(self.rows[index], self.chat, self.max_pixels)

    @property
    def pictured(self) -> bool:
        """Whether any row has an image."""
        return any(row["images"] for row in self.rows)

    def _length(self, index: int) -> int:
        return int(AnswerCollator(self.processor)([self[index]])["input_ids"].shape[1])


class AnswerCollator:
    """Rows → the model's inputs, right-padded, with `labels` (batch, tokens) set on the answers alone.

    With ``stand_in``, a batch without an image gets one that nothing sees: where weights are sharded over ranks, all of
    them must run the vision tower, or those that do wait for ever for those that do not.
    """

    def __init__(self, processor: Any, *, stand_in: bool = False) -> None:
        self.processor = processor
        self.stand_in = _stand_in(processor) if stand_in else None

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        batch = processed(self.processor, rows)
        batch["labels"] = torch.full_like(batch["input_ids"], IGNORE)
        for position, row in enumerate(rows):
            self._mark_answers(batch, position, row)
        if self.stand_in is not None and not any(row["images"] for row in rows):
            return _with_unseen(batch, self.stand_in, self.processor.tokenizer.pad_token_id or 0)
        return batch

    def _mark_answers(self, batch: Batch, position: int, row: dict[str, Any]) -> None:
        """Set the labels of a row from its end: only the first piece's length need not be known."""
        ids, end = batch["input_ids"][position], int(batch["attention_mask"][position].sum())
        images = list(row["images"])
        for piece in reversed(row["pieces"][1:]):
            tokens = self._tokens(piece, [images.pop() for _ in range(piece.images)][::-1], row)
            start = end - len(tokens)
            if ids[max(start, 0) : end].tolist() != tokens:
                raise DataError(f"row {row['id']}: the answer's tokens depend on the prompt; the loss cannot be placed")
            if piece.learned:
                batch["labels"][position, start:end] = ids[start:end]
            end = start

    def _tokens(self, piece: Piece, images: list[Image.Image], row: dict[str, Any]) -> list[int]:
        if images:
            alone = {"id": row["id"], "pieces": [piece], "images": images}
            return [int(token) for token in processed(self.processor, [alone])["input_ids"][0]]
        return list(self.processor.tokenizer(piece.text, add_special_tokens=False)["input_ids"])


def _stand_in(processor: Any) -> Batch:
    """A white image as the only thing in a user's turn, through the processor: a batch of one row."""
    text = processor.apply_chat_template(conversation(".", 1), tokenize=False)
    image = Image.new("RGB", STAND_IN_PIXELS, "white")
    row = {"id": "stand-in", "pieces": [Piece(text, 1, learned=False)], "images": [image]}
    return processed(processor, [row])


def _with_unseen(batch: Batch, unseen: Batch, pad: int) -> Batch:
    """``batch`` with the tokens of ``unseen`` behind its first row, masked and without labels, and with its image."""
    rows, tokens = batch["input_ids"].shape
    added = unseen["input_ids"].shape
    wider = {}
    for name in {**batch, **unseen}:
        extra = unseen.get(name)
        if extra is not None and extra.shape[:2] != added:
            wider[name] = extra  # the image's own
            continue
        fill = {"input_ids": pad, "labels": IGNORE}.get(name, 0)
        own = batch[name] if name in batch else unseen[name].new_zeros(rows, tokens)
        tail = own.new_full((rows, added[1]), fill)
        if name != "attention_mask" and extra is not None:
            tail[0] = extra[0]
        wider[name] = torch.cat([own, tail], dim=1)
    return wider
