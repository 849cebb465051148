"""Rows of a training set as chats that mark where each image stands: what every export is written from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data import tables
from drift.data.tables import Row
from drift.ground.errors import DataError
from drift.inference.images import image_bytes

IMAGE = "<image>"
MARKS = (IMAGE, "<video>", "<audio>")
"""What other trainers take for a picture, film or sound, wherever it stands in a text."""


@dataclass(frozen=True)
class Chat:
    """One row: messages with a text each, an `<image>` in it for each of the encoded ``images``, and its columns."""

    id: str
    messages: list[dict[str, str]]
    images: list[bytes]
    row: Row


def read_chats(folder: Path) -> Iterator[Chat]:
    """The rows of ``folder``/train.parquet, a row group at a time. Images that no text places come first.

    Raises DataError naming the row: no messages, an image that is missing, or marks that are no images of the row.
    """
    table = folder / tables.TRAIN_FILE
    if "messages" not in (names := tables.open_parquet(table).schema_arrow.names):
        raise DataError(f"{table}: no column 'messages'; it has {', '.join(names)}")
    for number, row in enumerate(tables.read_rows(table)):
        name = str(row.get("id") or f"number {number}")
        try:
            images = _images(row.get("images"), folder)
            yield Chat(name, _marked(_messages(row["messages"]), len(images)), images, row)
        except ValueError as error:
            raise DataError(f"{table}: row {name}: {error}") from error


def _images(cell: Any, folder: Path) -> list[bytes]:
    if not cell:
        return []
    images = image_bytes(cell, folder)
    if images is None:
        raise ValueError("an image has neither bytes nor a file")
    return images


def _messages(cell: Any) -> list[dict[str, str]]:
    if not cell or cell[-1]["role"] != "assistant":
        raise ValueError("messages: the last must be the assistant's answer")
    return [{"role": turn["role"], "content": _text(turn["content"])} for turn in cell]


def _text(content: Any) -> str:
    """A message's text; of blocks, with a mark where an image stands."""
    if not isinstance(content, list):
        return str(content or "")
    for block in content:
        if block["type"] == "text" and IMAGE in block["text"]:
            raise ValueError(f"'{IMAGE}' in a block of text would be read as an image; write it otherwise")
    return "".join(IMAGE if block["type"] == "image" else block["text"] for block in content)


def _marked(messages: list[dict[str, str]], images: int) -> list[dict[str, str]]:
    marks = sum(turn["content"].count(IMAGE) for turn in messages if turn["role"] != "assistant")
    if marks not in (0, images):
        raise ValueError(f"{images} images, but {marks} times '{IMAGE}' in the text; write it for each, or nowhere")
    for turn in messages:
        _require_unmarked(turn)
    if not images or marks:
        return messages
    place = next((place for place, turn in enumerate(messages) if turn["role"] == "user"), None)
    if place is None:
        raise ValueError("messages: no user's turn that the images could stand in")
    leading = {"role": "user", "content": IMAGE * images + messages[place]["content"]}
    return [*messages[:place], leading, *messages[place + 1 :]]


def _require_unmarked(turn: dict[str, str]) -> None:
    for mark in MARKS[0 if turn["role"] == "assistant" else 1 :]:
        if mark in turn["content"]:
            raise ValueError(f"'{mark}' in the {turn['role']}'s text would be read as one; write it otherwise")
