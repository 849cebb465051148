"""What other trainers read: a function per trainer, from chats to the files of a folder.

LLaMA-Factory  train.json (sharegpt), images/, dataset_info.json   ms-swift  train.jsonl, images/
TRL            train.parquet, conversational                       verl      train.parquet, for RL and supervised tuning
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Features, Image, List, Value

from drift.data import tables
from drift.data.exports.chats import IMAGE, Chat
from drift.data.exports.pictures import Pictures
from drift.data.tables import Row
from drift.ground.artifacts import write_json
from drift.ground.errors import DataError

Write = Callable[[Iterable[Chat], Path, Pictures], None]

DATASET = "drift"
"""What the data is called in LLaMA-Factory's dataset_info.json."""

_TEXT = Value("string")
TRL = Features(
    {
        "id": _TEXT,
        "messages": List({"role": _TEXT, "content": List({"type": _TEXT, "text": _TEXT})}),
        "images": List(Image()),
    }
)
VERL = Features(
    {
        "data_source": _TEXT,
        "prompt": tables.MESSAGES,
        "images": List(Image()),
        "ability": _TEXT,
        "reward_model": {"style": _TEXT, "ground_truth": _TEXT},
        "extra_info": {"split": _TEXT, "index": Value("int64"), "id": _TEXT, "answer": _TEXT},
        "messages": tables.MESSAGES,
    }
)


def llamafactory(chats: Iterable[Chat], folder: Path, pictures: Pictures) -> None:
    """The form of the paper's published data: messages of user and assistant, an `<image>` in the text for each image.

    Raises DataError for a chat whose turns do not alternate: LLaMA-Factory would leave it out.
    """
    with (folder / "train.json").open("w", encoding="utf-8") as file:
        for place, chat in enumerate(chats):
            _require_alternating(chat)
            file.write((",\n" if place else "[\n") + _line(chat, folder, pictures))
        file.write("\n]\n")
    roles = {f"{role}_tag": role for role in ("user", "assistant", "system")}
    entry = {
        "file_name": "train.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", **roles},
    }
    write_json(folder / "dataset_info.json", {DATASET: entry})


def ms_swift(chats: Iterable[Chat], folder: Path, pictures: Pictures) -> None:
    """JSON lines of messages and images; the paths are relative to the folder, which ROOT_IMAGE_DIR must name."""
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(_line(chat, folder, pictures) + "\n" for chat in chats)


def trl(chats: Iterable[Chat], folder: Path, pictures: Pictures) -> None:
    """Messages in blocks, so that images stand where the text has them, and a column of images."""
    tables.write_rows(folder / tables.TRAIN_FILE, (_trl_row(chat, pictures) for chat in chats), TRL)


def verl(chats: Iterable[Chat], folder: Path, pictures: Pictures) -> None:
    """A prompt with its ground truth for RL, and the whole chat in `messages` for supervised tuning.

    Raises DataError for a row without an answer: there would be nothing to reward.
    """
    rows = (_verl_row(number, chat, pictures) for number, chat in enumerate(chats))
    tables.write_rows(folder / tables.TRAIN_FILE, rows, VERL)


WRITERS: dict[str, Write] = {"llamafactory": llamafactory, "ms-swift": ms_swift, "trl": trl, "verl": verl}
USE = {
    "llamafactory": f"dataset_dir: {{folder}}, dataset: {DATASET}",
    "ms-swift": "ROOT_IMAGE_DIR={folder} swift sft --dataset {folder}/train.jsonl",
    "trl": 'load_dataset("{folder}", split="train"), with assistant_only_loss=True and max_length=None',
    "verl": "data.train_files={folder}/train.parquet",
}
"""How each is told of an export."""


def _line(chat: Chat, folder: Path, pictures: Pictures) -> str:
    images = [pictures.file_of(image, folder, f"row {chat.id}") for image in chat.images]
    return json.dumps({"id": chat.id, "messages": chat.messages, "images": images}, ensure_ascii=False)


def _require_alternating(chat: Chat) -> None:
    roles = [turn["role"] for turn in chat.messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise DataError(f"row {chat.id}: turns of {', '.join(roles)}; LLaMA-Factory reads a user and an answer in turn")


def _trl_row(chat: Chat, pictures: Pictures) -> Row:
    messages = [{"role": turn["role"], "content": list(_blocks(turn))} for turn in chat.messages]
    return {"id": chat.id, "messages": messages, "images": _cells(chat, pictures)}


def _blocks(turn: dict[str, str]) -> Iterator[dict[str, str | None]]:
    if turn["role"] == "assistant":
        yield {"type": "text", "text": turn["content"]}
        return
    for part in filter(None, re.split(f"({IMAGE})", turn["content"])):
        yield {"type": "image", "text": None} if part == IMAGE else {"type": "text", "text": part}


def _verl_row(number: int, chat: Chat, pictures: Pictures) -> Row:
    answer = chat.row.get("answer")
    if not answer:
        raise DataError(f"row {chat.id}: no 'answer', which verl's reward would compare with")
    return {
        "data_source": chat.row.get("source") or DATASET,
        "prompt": chat.messages[:-1],
        "images": _cells(chat, pictures),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": "train", "index": number, "id": chat.id, "answer": answer},
        "messages": chat.messages,
    }


def _cells(chat: Chat, pictures: Pictures) -> list[dict[str, Any]]:
    return [{"bytes": pictures.bytes_of(image, f"row {chat.id}"), "path": None} for image in chat.images]
