"""Where images stand in a text: `<image>` is the place of the next one; in backticks it is a word like others."""

from __future__ import annotations

import re

PLACEHOLDER = "<image>"
IMAGE = {"type": "image"}

_PLACE = re.compile(rf"(?<!`){PLACEHOLDER}(?!`)")

Block = dict[str, str]


def places(text: str) -> int:
    """How many images stand in the text."""
    return len(_PLACE.findall(text))


def at_placeholders(text: str) -> list[Block]:
    """The text as blocks, with an image where a placeholder stands."""
    blocks: list[Block] = []
    for number, part in enumerate(_PLACE.split(text)):
        blocks += [IMAGE] if number else []
        blocks += [{"type": "text", "text": part}] if part else []
    return blocks


def with_images(text: str, images: int) -> list[Block]:
    """The text with its images as blocks: at its placeholders where there are as many, else all before the text."""
    if images and places(text) == images:
        return at_placeholders(text)
    return [IMAGE] * images + [{"type": "text", "text": text}]
