"""What a problem must be: a question with a place for each image, one gold answer among its options, usable images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from drift.config.data import IngestConfig
from drift.data.problems.formats import Rejected
from drift.inference.images import image_bytes, image_size
from drift.inference.placeholders import PLACEHOLDER
from drift.verdicts.comparison import Comparison
from drift.verdicts.extract import SPECIAL_TOKEN, boxes, final_answer, split_thinking
from drift.verdicts.letters import option_of
from drift.verdicts.verdict import MAX_ANSWER_CHARACTERS

SENTINELS = frozenset({"proof", "notfound", "not found", "none", "null", "nan", "n/a", "unanswerable"})
"""Gold answers of data sets that stand for 'there is none'."""

SHORT = 1024
"""Text from here on is an image and no path."""

_TAG = r"(?<!`)<(?:image(?:here|_placeholder)?|(?:image|img)[ _-]?(\d+))>(?!`)"
_PLACE = re.compile(_TAG, re.IGNORECASE)
_LEADING = re.compile(rf"(?:\s*{_TAG})+", re.IGNORECASE)
_MEDIA = re.compile(r"(?<!`)<(?:video|audio)>(?!`)", re.IGNORECASE)


def question_of(cell: Any, images: list[Any]) -> tuple[str, list[Any]]:
    """The question, and its images in the order of their places.

    Placeholders that all stand in front are left out: that is where images without a place go. Others become
    `<image>`. Raises Rejected: empty, or not a place for each image.
    """
    text = cell if isinstance(cell, str) else ""
    if found := _MEDIA.search(text):
        raise Rejected("other_media", f"'{found[0]}'; a problem has images and text")
    numbers = [match[1] for match in _PLACE.finditer(text)]
    if numbers and len(numbers) != len(images):
        raise Rejected("placeholders", f"{len(numbers)} placeholders for {len(images)} images")
    images = _in_order(images, numbers)
    question = _without_leading(text).strip()
    if not _PLACE.sub("", question).strip():
        raise Rejected("empty_problem", "no question in the row")
    return _PLACE.sub(PLACEHOLDER, question), images


def _without_leading(text: str) -> str:
    """``text`` without its placeholders, if nothing stands before or between them."""
    leading = _LEADING.match(text)
    rest = text[leading.end() :] if leading else text
    return text if _PLACE.search(rest) else rest


def _in_order(images: list[Any], numbers: list[str | None]) -> list[Any]:
    """The images as numbered placeholders call them, each once."""
    if not any(numbers):
        return images
    called = [int(number or 0) for number in numbers]
    if sorted(called) != list(range(1, len(images) + 1)):
        raise Rejected("placeholders", f"placeholders of the images {called}, which are {len(images)}")
    return [images[number - 1] for number in called]


def gold_of(cell: Any, chain: str | None, *, boxed: bool) -> str:
    r"""The gold answer as text: of its cell, or else of the chain; ``boxed``: only what its last ``\boxed{}`` holds.

    Raises Rejected: none, several, or one that cannot be compared.
    """
    if cell is None and chain is not None:
        cell = _answered(chain, boxed)
    if isinstance(cell, list) and cell and all(one == cell[0] for one in cell):
        cell = cell[0]
    if isinstance(cell, list) and len(cell) > 1:
        raise Rejected("several_answers", f"{len(cell)} gold answers ({cell!r:.80}); an answer is compared with one")
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        raise Rejected("missing_answer", "no gold answer in the row")
    if isinstance(cell, float) and math.isinf(cell):
        raise Rejected("sentinel_answer", f"'{cell}' is no answer that can be compared")
    return _gold_text(cell)


def _gold_text(cell: Any) -> str:
    gold = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
    if found := boxes(gold):
        gold = found[-1][2]
    if not gold:
        raise Rejected("empty_answer", "the gold answer is empty")
    if isinstance(cell, list | dict) or gold.lower().strip(" .[]'\"") in SENTINELS:
        raise Rejected("sentinel_answer", f"'{gold:.80}' is no answer that can be compared")
    if len(gold) > MAX_ANSWER_CHARACTERS:
        raise Rejected("long_answer", f"{len(gold)} characters, more than {MAX_ANSWER_CHARACTERS}")
    return gold


def _answered(chain: str, boxed: bool) -> str:
    if answer := final_answer(chain):
        return answer
    thinking, rest, _ = split_thinking(chain)
    if boxed or thinking is not None:
        raise Rejected("unparsed_answer", f"no \\boxed{{...}} after the reasoning: '{chain.strip()[-80:]}'")
    return rest


def choices_of(cell: Any) -> list[str] | None:
    """The options; None without. Raises Rejected for what is no list of them."""
    if isinstance(cell, str) and cell.strip():
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise Rejected("bad_choices", f"'{cell:.80}' is no list of options") from error
    if isinstance(cell, dict):
        cell = list(cell.values())
    if not cell:
        return None
    if not isinstance(cell, list):
        raise Rejected("bad_choices", f"{cell!r:.80} is no list of options")
    choices = [str(choice).strip() for choice in cell]
    if any(_PLACE.search(choice) for choice in choices):
        raise Rejected("placeholders", "an image in an option; write the options into the question")
    return choices


def require_option(gold: str, choices: Sequence[str]) -> None:
    """Raise Rejected unless ``gold`` names an option by letter or content, or only math-verify could tell."""
    comparison = Comparison({})
    named = option_of(gold, choices, lambda option, text: comparison.same(option, text)[0] == "correct")
    if named is None and not comparison.wanted:
        raise Rejected("gold_not_an_option", f"'{gold:.80}' is none of {list(choices)!r:.200}")


def require_text(texts: Sequence[str], chain: str | None) -> None:
    """Raise Rejected for text that a file or a tokenizer does not take as it is."""
    for text in texts:
        if match := SPECIAL_TOKEN.search(text.replace(PLACEHOLDER, "")):
            raise Rejected("special_token", f"'{match[0]}' in the text would be read as a control token")
    for text in [*texts, chain or ""]:
        if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
            raise Rejected("bad_text", f"a NUL or half a character (a lone surrogate) in {text!a:.80}")


def image_of(cell: Any, config: IngestConfig, folder: Path) -> bytes:
    """The encoded image of a cell. Raises Rejected if it is not there."""
    at = Path(config.image_folder) if config.image_folder else folder
    named = cell.get("path") if isinstance(cell, dict) and not cell.get("bytes") else cell
    if not isinstance(named, str) or len(named) >= SHORT or named.startswith("data:"):
        named, forms = "in its cell", [cell]
    elif re.match(r"(?!file:)\w+://", named):
        raise Rejected("image_address", f"'{named:.200}' is an address; download the file, and give its path")
    else:
        forms = list(_paths(named.removeprefix("file://")))
    if found := next(filter(None, (image_bytes(form, at) for form in forms)), None):
        return found[0]
    raise Rejected("missing_image", f"no image {named:.200} (paths start at {at})")


def _paths(name: str) -> Iterator[str]:
    """Where a relative path may lead to: files of LLaMA-Factory start beside the set's folder (`../SET/images/...`)."""
    yield name
    parts = Path(name).parts
    up = len(list(takewhile(lambda part: part == "..", parts)))
    inside = Path(*parts[up:])
    yield str(Path("..", inside))
    if up:
        yield str(inside)
        yield str(Path(*parts[up + 1 :]))


def size_of(content: bytes, config: IngestConfig) -> tuple[int, int]:
    """Width and height. Raises Rejected for an image that does not decode or that processors refuse."""
    try:
        width, height = image_size(content)
    except ValueError as error:
        raise Rejected("undecodable_image", str(error)[:200]) from error
    if min(width, height) < config.min_side_pixels:
        raise Rejected("too_small", f"{width} x {height} pixels, a side below {config.min_side_pixels}")
    if max(width, height) / min(width, height) >= config.max_aspect_ratio:
        raise Rejected("aspect_ratio", f"{width} x {height} pixels, a ratio of {config.max_aspect_ratio:g} or more")
    return width, height
