"""Parts of a generated text: the reasoning, what follows it, and the final answer in it."""

from __future__ import annotations

import re

OPEN = re.compile(r"<\s*think\s*>", re.IGNORECASE)
CLOSE = re.compile(r"<\s*/\s*think\s*>", re.IGNORECASE)
SPECIAL_TOKEN = re.compile(r"<\|[^<>|\s]{1,64}\|>")
"""Control tokens such as `<|im_end|>`: a tokenizer reads them as such even in the middle of a text."""

BOXED = re.compile(r"\\boxed\s*\{")


def split_thinking(text: str) -> tuple[str | None, str, bool]:
    """``(thinking, rest, closed)``: the reasoning, the text after it, and whether the reasoning ended.

    The reasoning ends at the last ``</think>``; its ``<think>`` may be missing, since some chat templates put it
    into the prompt. ``closed`` is False if a ``<think>`` has no ``</think>`` after it; ``rest`` is then empty.
    A text without tags is all rest: ``(None, text, True)``.
    """
    closes = list(CLOSE.finditer(text))
    after = closes[-1].end() if closes else 0
    unclosed = OPEN.search(text, after)
    if unclosed is not None:
        return text[unclosed.end() :].strip(), "", False
    if not closes:
        return None, text.strip(), True
    opened = OPEN.search(text)
    start = opened.end() if opened is not None else 0
    return text[start : closes[-1].start()].strip(), text[after:].strip(), True


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""All outermost balanced ``\boxed{...}`` as ``(start, end, content)``; an unclosed one is left out."""
    found: list[tuple[int, int, str]] = []
    for match in BOXED.finditer(text):
        end = _closing_brace(text, match.end())
        if end is not None and (not found or match.start() >= found[-1][1]):
            found.append((match.start(), end + 1, text[match.end() : end].strip()))
    return found


def final_answer(text: str) -> str | None:
    r"""Content of the last balanced ``\boxed{...}`` after the reasoning; None without one, or if it is empty.

    Boxes inside the reasoning do not count, and nothing else does: the paper's format is the box alone.
    """
    _, rest, _ = split_thinking(text)
    found = boxes(rest)
    if not found:
        return None
    content = found[-1][2]
    inner = boxes(content)
    while len(inner) == 1 and inner[0][0] == 0 and inner[0][1] == len(content):
        content = inner[0][2]
        inner = boxes(content)
    return content or None


def _closing_brace(text: str, position: int) -> int | None:
    depth = 1
    escaped = False
    for index in range(position, len(text)):
        character = text[index]
        if not escaped and character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return index
        escaped = character == "\\" and not escaped
    return None
