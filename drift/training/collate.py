"""Training rows as batches: images and chat through the model's own processor, loss on the assistant only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import Dataset

from drift.config.train import TrainConfig
from drift.ground.errors import DataError
from drift.inference.images import conversation, decode_image, limit_pixels
from drift.training.lengths import counts_key, token_counts

logger = logging.getLogger(__name__)

IGNORE = -100
"""Label of the tokens that the loss leaves out; torch's and transformers' convention."""
KIND = "kind"
"""Column that a training set may have: `direct` rows are perception's."""


class TrainingRows(Dataset[dict[str, Any]]):
    """The rows of a training set that fit into `cutoff_tokens`: `{id, prompt, answer, images}`.

    `prompt` is the rendered chat up to and with the assistant's header, `answer` what follows it. A row is rendered and
    its images are decoded when it is asked for. `lengths` are the rows' tokens.
    Raises DataError if the set is empty, a row is malformed, or more than `max_skipped` are too long.
    """

    def __init__(self, training_set: Path, processor: Any, config: TrainConfig) -> None:
        self.max_pixels, self.processor = config.image_max_pixels, processor
        self.rows = _read(training_set / "train.parquet")
        key = counts_key(training_set, processor, config.image_max_pixels)
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
        row = _rendered(self.rows[index], self.processor)
        images = [decode_image(encoded, f"row {row['id']}") for encoded in row["images"]]
        return {**row, "images": [limit_pixels(image, self.max_pixels) for image in images]}

    def _length(self, index: int) -> int:
        return int(_process(self.processor, [self[index]])["input_ids"].shape[1])


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
        names = pq.read_schema(path).names
        rows = pq.read_table(path, columns=["id", "messages", "images", *({KIND} & set(names))]).to_pylist()
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
