"""A row of a training set as the student's processor makes it: its chat rendered, its images shown, its tokens."""

from __future__ import annotations

from typing import Any

import torch

from drift.data.rows import Chat
from drift.ground.errors import DataError, cause
from drift.inference.images import decode_image, limit_pixels

Batch = dict[str, torch.Tensor]


def shown(row: dict[str, Any], chat: Chat, max_pixels: int | None) -> dict[str, Any]:
    """``row`` (`rows.read_row`) with its chat in pieces and its images decoded, none larger than ``max_pixels``.

    Raises DataError naming the row: the chat template refuses it, or an image does not decode.
    """
    rendered = chat.rendered(row)
    images = [decode_image(image, f"row {row['id']}") for image in row["images"]]
    return {**rendered, "images": [limit_pixels(image, max_pixels) for image in images]}


def processed(processor: Any, rows: list[dict[str, Any]], *, padding_side: str = "right") -> Batch:
    """The model's inputs of rows that are `shown`, padded. Raises DataError naming them: it refuses one."""
    images = [row["images"] for row in rows] if any(row["images"] for row in rows) else None
    try:
        return dict(
            processor(
                text=["".join(piece.text for piece in row["pieces"]) for row in rows],
                images=images,
                padding=True,
                padding_side=padding_side,
                add_special_tokens=False,
                return_tensors="pt",
            )
        )
    except Exception as error:  # processors raise many kinds, of an image that is too narrow for example
        named = ", ".join(str(row["id"]) for row in rows)
        raise DataError(f"row {named}: the model's processor refuses it ({cause(error)})") from error


def token_count(processor: Any, row: dict[str, Any]) -> int:
    """How many tokens a row that is `shown` has for the model, its images' included."""
    return int(processed(processor, [row])["input_ids"].shape[1])
