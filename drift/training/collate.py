"""Training rows as batches: images and chat through the model's own processor, loss on the assistant only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from drift.config.train import TrainConfig
from drift.ground.errors import DataError
from drift.inference.images import conversation, decode_image, limit_pixels

logger = logging.getLogger(__name__)

IGNORE = -100
"""Label of the tokens that the loss leaves out; torch's and transformers' convention."""


class TrainingRows(Dataset[dict[str, Any]]):
    """The rows of a training set that fit into `cutoff_tokens`: `{id, prompt, answer, images}`.

    `prompt` is the rendered chat up to and with the assistant's header, `answer` what follows it. Images are kept
    encoded and decoded when a row is asked for.
    Raises DataError if the set is empty, a row is malformed, or more than `max_skipped` are too long.
    """

    def __init__(self, training_set: Path, processor: Any, config: TrainConfig) -> None:
        self.max_pixels = config.image_max_pixels
        rows = [_rendered(row, processor) for row in _read(training_set / "train.parquet")]
        lengths = [self._length(row, processor) for row in tqdm(rows, "lengths", leave=False, disable=None)]
        self.rows = [row for row, length in zip(rows, lengths, strict=True) if length <= config.cutoff_tokens]
        self.skipped = len(rows) - len(self.rows)
        if self.skipped > config.max_skipped * len(rows) or not self.rows:
            raise DataError(
                f"{training_set}: {self.skipped} of {len(rows)} samples are longer than train.cutoff_tokens ="
                f" {config.cutoff_tokens} (longest {max(lengths)}); raise it, or train.max_skipped ="
                f" {config.max_skipped}"
            )
        if self.skipped:
            logger.warning(
                "%d of %d samples are longer than %d tokens: left out", self.skipped, len(rows), config.cutoff_tokens
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._decoded(self.rows[index])

    def _decoded(self, row: dict[str, Any]) -> dict[str, Any]:
        images = [decode_image(encoded, f"row {row['id']}") for encoded in row["images"]]
        return {**row, "images": [limit_pixels(image, self.max_pixels) for image in images]}

    def _length(self, row: dict[str, Any], processor: Any) -> int:
        return int(_process(processor, [self._decoded(row)])["input_ids"].shape[1])


class AnswerCollator:
    """Rows → the model's inputs, right-padded, with `labels` (batch, tokens) set on the answers alone."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = _process(self.processor, rows)
        labels = torch.full_like(batch["input_ids"], IGNORE)
        for position, row in enumerate(rows):
            answer = self.processor.tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
            end = int(batch["attention_mask"][position].sum())
            target = batch["input_ids"][position, end - len(answer) : end]
            if target.tolist() != answer:
                raise DataError(f"row {row['id']}: the answer's tokens depend on the prompt; the loss cannot be placed")
            labels[position, end - len(answer) : end] = target
        return {**batch, "labels": labels}


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; `drift curate` writes it")
    try:
        rows = pq.read_table(path, columns=["id", "messages", "images"]).to_pylist()
    except Exception as error:
        raise DataError(f"{path}: not a training set ({str(error).splitlines()[0]})") from error
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _rendered(row: dict[str, Any], processor: Any) -> dict[str, Any]:
    user, assistant = row["messages"]
    turns = [*conversation(user["content"], len(row["images"])), assistant]
    prompt = processor.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    whole = processor.apply_chat_template(turns, tokenize=False)
    if not whole.startswith(prompt):
        raise DataError(f"row {row['id']}: the chat template renders the prompt differently when an answer follows")
    images = [image["bytes"] for image in row["images"]]
    return {"id": row["id"], "prompt": prompt, "answer": whole[len(prompt) :], "images": images}


def _process(processor: Any, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    images: list[list[Image.Image]] | None = [row["images"] for row in rows] if any(r["images"] for r in rows) else None
    return dict(
        processor(
            text=[row["prompt"] + row["answer"] for row in rows],
            images=images,
            padding=True,
            padding_side="right",
            add_special_tokens=False,
            return_tensors="pt",
        )
    )
