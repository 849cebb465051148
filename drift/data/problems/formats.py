"""What a row of a source says, whatever its format: question, gold, images, options, and a chain where it brings one.

columns        a column for each, as `ingest` names them
messages       turns of `role` and `content`: LLaMA-Factory's sharegpt, OpenAI's and TRL's conversations
conversations  the same as `from` and `value`: LLaVA
prompt         the user's turn, with a `completion` or a gold answer beside it: TRL, verl
vlmevalkit     `question`, `answer`, `image`, and an option in each of A, B, ...
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drift.config.data import Format, IngestConfig
from drift.inference.placeholders import PLACEHOLDER

TURNS: dict[str, Format] = {"messages": "messages", "conversations": "conversations", "prompt": "prompt"}
"""The column that a format of turns is known by."""
GOLDS = ("reward_model.ground_truth", "ground_truth", "solution")
"""Columns of the gold answer in formats of turns, where there is none of the configured name."""
OPTIONS = string.ascii_uppercase[:10]
READ = {
    *TURNS, "completion", "images", "image", "image_path", "question", "hint", "source", "index",
    "reward_model", "ground_truth", "solution", *OPTIONS,
}  # fmt: skip
"""Columns that formats other than `columns` look at."""
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
MEDIA = {"video", "video_url", "audio", "audio_url", "input_audio"}


class Rejected(Exception):  # noqa: N818
    """A row that cannot be used. ``args`` are the reason, counted, and a detail."""


@dataclass(frozen=True)
class Entry:
    """A row's parts as they stand there, unchecked. ``chain``: the assistant's text; ``gold``: None if in the chain."""

    question: Any
    gold: Any
    images: list[Any]
    choices: Any = None
    chain: str | None = None


def recognise(config: IngestConfig, columns: Sequence[str]) -> Format:
    """The format of rows with these columns, unless the configuration names it."""
    if config.format:
        return config.format
    turns = next((form for column, form in TURNS.items() if column in columns), None)
    chains_elsewhere = config.ready and turns and not config.chain_column
    if (config.problem_column in columns and not chains_elsewhere) or config.problem_column != "problem":
        return "columns"
    if turns:
        return turns
    return "vlmevalkit" if {"question", "answer"} <= set(columns) else "columns"


def needed(config: IngestConfig, form: Format, columns: Sequence[str]) -> dict[str, str]:
    """The columns that rows of a format must have, by the key that names them; '' where the format does."""
    if form == "columns":
        images = {} if config.text_only else {"image_column": image_column(config, columns)}
        named = {"problem_column": config.problem_column, "answer_column": config.answer_column, **images}
        named |= {
            key: name for key in ("choices_column", "text_column", "chain_column") if (name := getattr(config, key))
        }
        return {key: name.partition(".")[0] for key, name in named.items()}
    known = {"problem_column": "question", "answer_column": "answer"} if form == "vlmevalkit" else {"format": form}
    own = {"answer_column": config.answer_column.partition(".")[0]} if config.answer_column != "answer" else {}
    return known | own | ({"text_column": config.text_column} if config.text_column else {})


def image_column(config: IngestConfig, columns: Sequence[str]) -> str:
    """The configured column; `images` where that is the default and not there."""
    plural = config.image_column == "image" and "image" not in columns and "images" in columns
    return "images" if plural else config.image_column


def read_entry(row: dict[str, Any], config: IngestConfig, form: Format) -> Entry:
    """What ``row`` says. Raises Rejected for turns that are not one question and its answer."""
    if form == "columns":
        choices = row.get(config.choices_column) if config.choices_column else None
        chain = row.get(config.chain_column) if config.chain_column else None
        gold = _at(row, config.answer_column)
        return Entry(row.get(config.problem_column), gold, _images(row, config), choices, chain)
    if form == "vlmevalkit":
        hint, question = row.get("hint") or "", row.get("question") or ""
        question = f"{hint}\n{question}" if hint else question
        images = _images(row, config) or _listed(row.get("image_path"))
        return Entry(question, _at(row, config.answer_column), images, _options(row))
    return _from_turns(_turns(row, form), row, config)


def _from_turns(turns: list[tuple[str, Any]], row: dict[str, Any], config: IngestConfig) -> Entry:
    roles = [role for role, _ in turns if role != "system"]
    if roles not in (["user"], ["user", "assistant"]):
        raise Rejected("turns", f"{', '.join(roles) or 'none'}; a problem is one turn of the user and one answer")
    contents = dict(turns)
    question, cells = _content(contents["user"], iter(_images(row, config)))
    chain = _content(contents["assistant"], iter([]))[0] if "assistant" in contents else None
    choices = row.get(config.choices_column) if config.choices_column else None
    golds = (_at(row, column) for column in (config.answer_column, *GOLDS))
    return Entry(question, next((gold for gold in golds if gold is not None), None), cells, choices, chain)


def _turns(row: dict[str, Any], form: Format) -> list[tuple[str, Any]]:
    """(role, content) of every turn."""
    turns = row.get(form)
    if form == "prompt":
        turns = [*_spoken(turns, "user"), *_spoken(row.get("completion"), "assistant")]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Rejected("turns", f"{turns!r:.80} in '{form}' is no list of turns")
    said = [(turn.get("role") or turn.get("from"), turn.get("content", turn.get("value"))) for turn in turns]
    for role, _ in said:
        if role not in ROLES:
            raise Rejected("turns", f"a turn of {role!r:.80}; known: {', '.join(ROLES)}")
    return [(ROLES[role], content) for role, content in said]


def _spoken(cell: Any, role: str) -> list[Any]:
    if isinstance(cell, str):
        return [{"role": role, "content": cell}]
    return cell if isinstance(cell, list) else []


def _content(content: Any, images: Any) -> tuple[str, list[Any]]:
    """The text of a turn with a placeholder for each image block, and the images: the blocks' own, else the row's."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else "", list(images)
    texts: list[str] = []
    cells: list[Any] = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind in MEDIA:
            raise Rejected("other_media", f"a block of type '{kind}'; a problem has images and text")
        if kind in ("image", "image_url", "input_image"):
            texts.append(PLACEHOLDER)
            own = _payload(block)
            cells.append(next(images, None) if own is None else own)
        elif kind in ("text", "input_text") and isinstance(block.get("text"), str):
            texts.append(block["text"])
        else:
            raise Rejected("turns", f"{block!r:.80} is neither a block of text nor of an image")
    return "".join(texts), [*cells, *images]


def _payload(block: dict[str, Any]) -> Any:
    """The image in its own block; None where the row's images have it."""
    own = block.get("image_url") or block.get("image") or block.get("url") or block.get("path") or block.get("base64")
    return own.get("url", own) if isinstance(own, dict) else own


def _options(row: dict[str, Any]) -> list[str] | None:
    """The cells A, B, ... up to the first that is empty."""
    options: list[str] = []
    for letter in OPTIONS:
        if row.get(letter) in (None, ""):
            break
        options.append(str(row[letter]))
    return options or None


def _images(row: dict[str, Any], config: IngestConfig) -> list[Any]:
    return _listed(row.get(image_column(config, list(row))))


def _listed(cell: Any) -> list[Any]:
    cells = cell if isinstance(cell, list | tuple) else [cell]
    return [] if all(one is None or one == "" for one in cells) else list(cells)


def _at(row: dict[str, Any], column: str) -> Any:
    """A cell; a dot leads into a nested column where there is none of the whole name."""
    if column in row or "." not in column:
        return row.get(column)
    name, _, rest = column.partition(".")
    return _at(row[name], rest) if isinstance(row.get(name), dict) else None
