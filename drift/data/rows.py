"""Rows of a training set: chats of any length, with images anywhere in them or without, in the model's own template.

A row has `messages` (of system, user and assistant; the last is the assistant's) and, where it has pictures, `images`.
`<image>` in the text of a system's or user's turn is the place of one; text in blocks is taken as it is. What is wrong
with a row is a line with its id, found before any image is decoded or model loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from drift.ground.errors import DataError, cause
from drift.inference.images import conversation, find_image
from drift.inference.placeholders import IMAGE, PLACEHOLDER, Block, at_placeholders

TRAIN_FILE = "train.parquet"
COLUMNS = ("id", "kind", "messages", "images", "text_problem")
ROLES = ("system", "user", "assistant")
NAMED = 5
"""So many more rows that cannot be used are named."""


class Piece(NamedTuple):
    """A stretch of a rendered chat: its text, how many images stand in it, and whether the loss is on it."""

    text: str
    images: int
    learned: bool


@dataclass(frozen=True)
class Turn:
    """One message, as blocks of text and images in their order."""

    role: str
    blocks: list[Block]

    @property
    def images(self) -> int:
        """How many images stand in it."""
        return self.blocks.count(IMAGE)

    @property
    def texts(self) -> list[str]:
        """Its stretches of text."""
        return [block["text"] for block in self.blocks if block != IMAGE]


def read_rows(training_set: Path, processor: Any) -> list[dict[str, Any]]:
    """The rows of ``training_set``/train.parquet: `{id, kind, turns, images}`, an image as its bytes or a path.

    `text_problem` is there too where the row has the problem in words.
    Paths are relative to the folder. A row without an id is called by its number. Raises DataError: no training set,
    or a row that cannot be used, of which the first is told whole and the others are named.
    """
    rows: list[dict[str, Any]] = []
    faults: list[tuple[str, str]] = []
    tokens = media_tokens(processor)
    for number, raw in enumerate(_read(train_file(training_set))):
        name = str(raw.get("id") or f"number {number}")
        try:
            rows.append(read_row(raw, name, training_set, tokens))
        except ValueError as error:
            faults.append((name, str(error)))
    require_sound(faults)
    return rows


def read_row(raw: dict[str, Any], name: str, folder: Path, tokens: Sequence[str]) -> dict[str, Any]:
    """One row as `read_rows` says; ``tokens`` (`media_tokens`) may not stand in its texts.

    Raises ValueError: it cannot be used.
    """
    images = _images(raw.get("images"), folder)
    turns = _placed(_turns(raw["messages"]), len(images))
    _require_no_token(turns, tokens)
    words = {"text_problem": raw["text_problem"]} if raw.get("text_problem") else {}
    return {"id": name, "kind": raw.get("kind"), "turns": turns, "images": images, **words}


class Chat:
    """A model's chat template."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._plain = self._renders_plain_text()

    def rendered(self, row: dict[str, Any]) -> dict[str, Any]:
        """``row`` with its chat as ``pieces``, cut where the assistant's answers begin and end.

        Raises DataError naming the row: the template refuses it, leaves out what it says, or renders an answer's
        prompt differently when more follows.
        """
        try:
            pieces = list(self._cut(row["turns"]))
            _require_all_said(row["turns"], "".join(piece.text for piece in pieces))
        except ValueError as error:
            raise DataError(f"row {row['id']}: {error}") from error
        return {**row, "pieces": pieces}

    def _cut(self, turns: list[Turn]) -> Iterator[Piece]:
        done, seen = "", 0
        for place in (place for place, turn in enumerate(turns) if turn.role == "assistant"):
            prompt = self._render(turns[:place], add_generation_prompt=True)
            whole = self._render(turns[: place + 1])
            if not prompt.startswith(done) or not whole.startswith(prompt):
                raise ValueError(
                    "the chat template renders the turns before an answer differently when more follows; make a row of "
                    "each answer"
                )
            yield Piece(prompt[len(done) :], sum(turn.images for turn in turns[seen:place]), learned=False)
            yield Piece(whole[len(prompt) :], 0, learned=True)
            done, seen = whole, place

    def _render(self, turns: Sequence[Turn], **options: Any) -> str:
        messages = [{"role": turn.role, "content": self._content(turn)} for turn in turns]
        try:
            text: str = self._processor.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # a template raises what its author wrote
            raise ValueError(f"the chat template refuses the messages ({cause(error)})") from error
        return text

    def _content(self, turn: Turn) -> str | list[Block]:
        plain = self._plain and turn.role != "user" and len(turn.blocks) == 1 and not turn.images
        return turn.blocks[0]["text"] if plain else turn.blocks

    def _renders_plain_text(self) -> bool:
        """Whether an assistant's turn may be a string: templates that want blocks leave a string out, in silence."""
        turns = [*conversation("?", 0), {"role": "assistant", "content": "answer"}]
        try:
            return "answer" in self._processor.apply_chat_template(turns, tokenize=False)
        except Exception:  # a template raises what its author wrote
            return False


def train_file(training_set: Path) -> Path:
    """The file of its rows. Raises DataError if there is none."""
    path = training_set / TRAIN_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; `drift curate` writes it")
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        there = pq.read_schema(path).names
        rows: list[dict[str, Any]] = pq.read_table(path, columns=[c for c in COLUMNS if c in there]).to_pylist()
    except Exception as error:  # pyarrow raises many kinds on broken files
        raise DataError(f"{path}: not a training set ({str(error).splitlines()[0]})") from error
    if "messages" not in there:
        raise DataError(f"{path}: not a training set (no column 'messages'; it has {', '.join(there)})")
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _images(cell: Any, folder: Path) -> list[bytes | Path]:
    cells = [] if cell is None else cell if isinstance(cell, list) else [cell]
    found = [find_image(one, folder) for one in cells]
    for place, (one, image) in enumerate(zip(cells, found, strict=True)):
        if image is None:
            raise ValueError(f"images[{place}]: {_missing(one, folder)}")
    return [image for image in found if image is not None]


def _missing(cell: Any, folder: Path) -> str:
    named = cell.get("path") if isinstance(cell, dict) else cell
    if not isinstance(named, str) or not named:
        return "neither bytes nor a path"
    if "://" in named:
        return f"{named!r:.200} is an address; download the file, and give its path"
    return f"no file {named!r:.200} in {folder}"


def _turns(messages: Any) -> list[Turn]:
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: no list of turns; it needs a user's and the assistant's answer")
    turns = [_turn(message, place) for place, message in enumerate(messages)]
    if turns[-1].role != "assistant":
        raise ValueError(f"messages[{len(turns) - 1}]: the last is the {turns[-1].role}'s; the assistant must answer")
    if not any(turn.role == "user" for turn in turns):
        raise ValueError("messages: no user's turn before the answer")
    return turns


def _turn(message: Any, place: int) -> Turn:
    where = f"messages[{place}]"
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise ValueError(f"{where}.role: {role!r:.80}; use one of {', '.join(ROLES)}")
    blocks = _blocks(message.get("content"), role, where)
    if role == "assistant" and IMAGE in blocks:
        raise ValueError(f"{where}: an image in the assistant's turn; a model is not taught to draw")
    return Turn(role, blocks or [{"type": "text", "text": ""}])


def _blocks(content: Any, role: str, where: str) -> list[Block]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if role == "assistant" else at_placeholders(content)
    if not isinstance(content, list):
        raise ValueError(f"{where}.content: {content!r:.80} is neither a text nor a list of blocks")
    return [_block(block, f"{where}.content[{number}]") for number, block in enumerate(content)]


def _block(block: Any, where: str) -> Block:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "image":
        return IMAGE
    if kind == "text" and isinstance(block.get("text"), str):
        return {"type": "text", "text": block["text"]}
    raise ValueError(f"{where}: {block!r:.80}; a block is {{type: text, text: ...}} or {{type: image}}")


def _placed(turns: list[Turn], images: int) -> list[Turn]:
    """The turns with every image in its place; before the first user's text where no turn says where."""
    placed = sum(turn.images for turn in turns)
    if placed == images:
        return turns
    if placed:
        raise ValueError(
            f"images: {images}, but the messages have places for {placed}; write {PLACEHOLDER} for each, or nowhere"
        )
    first = next(place for place, turn in enumerate(turns) if turn.role == "user")
    leading = Turn("user", [IMAGE] * images + turns[first].blocks)
    return [*turns[:first], leading, *turns[first + 1 :]]


def media_tokens(processor: Any) -> list[str]:
    """What stands for an image, video or sound in this model's texts."""
    named = (getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio", "boi"))
    return [token for token in named if isinstance(token, str) and token]


def _require_no_token(turns: list[Turn], tokens: Sequence[str]) -> None:
    for text in (text for turn in turns for text in turn.texts):
        for token in tokens:
            if token in text:
                raise ValueError(f"'{token}' in a text would be read as an image, video or sound; write it otherwise")


def _require_all_said(turns: list[Turn], rendered: str) -> None:
    for turn in turns:
        for text in turn.texts:
            if text.strip() not in rendered:
                raise ValueError(f"the chat template leaves out what the {turn.role} says ({text.strip()!r:.80})")


def require_sound(faults: Sequence[tuple[str, str]]) -> None:
    """Raise DataError if there are faults of rows, each with the row's name: the first whole, and the others named."""
    if faults:
        (name, fault), *others = faults
        named = ", ".join(other for other, _ in others[:NAMED]) + (" ..." if len(others) > NAMED else "")
        more = f"; {len(others)} more rows cannot be used ({named})" if others else ""
        raise DataError(f"row {name}: {fault}{more}")
