"""Parts of a generated text: the reasoning, what follows it, and the final answer in it."""

from __future__ import annotations

import re

OPEN = re.compile(r"<\s*think\s*>", re.IGNORECASE)
CLOSE = re.compile(r"<\s*/\s*think\s*>", re.IGNORECASE)
MARKER = re.compile(r"<\|[^<>|\s]{1,64}\|>")
"""`<|im_end|>` and the like, in any family: what a server leaves at a reply's end is no part of an answer."""

_TAGS = (
    "s|/s|unk|pad|bos|eos|mask|image|video|img|/img|IMG_CONTEXT|(?:/?(?:quad|ref|box|tool_call|tool_response))|"
    "(?:start|end)_of_(?:turn|image)|image_soft_token|fake_token_around_image|end_of_utterance|global-img|"
    r"row_\d+_col_\d+|loc\d{4}|seg\d{3}|unused\d+|SPECIAL_\d+|FILL_ME|[se]op"
)
_BRACKETS = (
    "/?INST|IMG|IMG_BREAK|IMG_END|/?AVAILABLE_TOOLS|/?TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT|/?SYSTEM_PROMPT|"
    "PREFIX|MIDDLE|SUFFIX|[gs]?MASK|multimodal"
)
SPECIAL_TOKEN = re.compile(rf"{MARKER.pattern}|<｜[^<>｜\s]{{1,64}}｜>|<(?:{_TAGS})>|\[(?:{_BRACKETS})\]")
"""Control tokens of the families in docs/families.md, and of DeepSeek's as a teacher: a tokenizer reads them as such
even in the middle of a text. By their exact spelling, so that `a < s > b`, `[A]` and `<think>` are none."""

BOXED = re.compile(r"\\f?boxed\s*\{")

_NAMES = r"think(?:ing)?|thoughts?|reason(?:ing)?|seed:think|analysis|scratchpad|reflection"
_OPENED = re.compile(rf"<\s*(?:{_NAMES})\s*>|◁think▷|\[THINK\]|<\|begin_of_thought\|>", re.IGNORECASE)
_CLOSED = re.compile(rf"<\s*/\s*(?:{_NAMES})\s*>|◁/think▷|\[/THINK\]|<\|end_of_thought\|>", re.IGNORECASE)


def split_thinking(text: str) -> tuple[str | None, str, bool]:
    """``(thinking, rest, closed)``: the reasoning, the text after it, and whether the reasoning ended.

    Tags are ``<think>`` and the like: ``<thinking>``, ``<reasoning>``, ``◁think▷``, ``[THINK]``. The reasoning ends at
    the last closing tag; its opening tag may be missing, since some chat templates put it into the prompt. ``closed``
    is False if an opening tag has no closing tag after it; ``rest`` is then empty. A text without tags is all rest:
    ``(None, text, True)``.
    """
    closes = list(_CLOSED.finditer(text))
    after = closes[-1].end() if closes else 0
    unclosed = _OPENED.search(text, after)
    if unclosed is not None:
        return text[unclosed.end() :].strip(), "", False
    if not closes:
        return None, text.strip(), True
    opened = _OPENED.search(text)
    start = opened.end() if opened is not None and opened.end() <= closes[-1].start() else 0
    return text[start : closes[-1].start()].strip(), text[after:].strip(), True


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""All outermost balanced ``\boxed{...}`` as ``(start, end, content)``; an unclosed one is left out."""
    found: list[tuple[int, int, str]] = []
    closing = _closing_braces(text) if BOXED.search(text) else {}
    for match in BOXED.finditer(text):
        end = closing.get(match.end() - 1)
        if end is not None and (not found or match.start() >= found[-1][1]):
            found.append((match.start(), end + 1, text[match.end() : end].strip()))
    return found


def final_answer(text: str) -> str | None:
    r"""Content of the last balanced ``\boxed{...}`` after the reasoning; None without one, or if it is empty.

    Boxes inside the reasoning do not count, and nothing else does: the paper's format is the box alone.
    """
    _, rest, _ = split_thinking(text)
    found = boxes(rest)
    return unboxed(found[-1][2]) or None if found else None


def unboxed(content: str) -> str:
    """``content`` of a box without boxes around all of it."""
    inner = boxes(content)
    while len(inner) == 1 and inner[0][0] == 0 and inner[0][1] == len(content):
        content = inner[0][2]
        inner = boxes(content)
    return content


def _closing_braces(text: str) -> dict[int, int]:
    """Where each brace that is closed is closed, in one pass: a text may hold thousands of open boxes."""
    closing: dict[int, int] = {}
    open_: list[int] = []
    escaped = False
    for index, character in enumerate(text):
        if not escaped and character == "{":
            open_.append(index)
        elif not escaped and character == "}" and open_:
            closing[open_.pop()] = index
        escaped = character == "\\" and not escaped
    return closing
