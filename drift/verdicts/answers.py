r"""From what a model wrote to its answer: thinking split off, then the last \boxed{}, else what is left.

An option is read as VLMEvalKit's exact matching does (a letter alone, stated, leading, or the only one), yes/no as
the only one of the two words. None means that the text holds no answer: it counts as `unparsed`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from drift.verdicts.verdict import final_answer, split_thinking

AnswerForm = Literal["option", "letters", "yes_no", "open"]
"""One of the options; letters of options that are not in the table, perhaps several; yes or no; anything."""

YES_NO = frozenset({"yes", "no"})

_ALONE = re.compile(r"\W*([A-Ha-h])\W*")
_STATED = re.compile(r"(?i:answer(?:\s+is)?\W{0,6}(?:option\s+|choice\s+)?)\W{0,6}([A-H])(?![A-Za-z'])")
_LEADING = re.compile(r"\W*([A-H])\s*[).:]\W*\s")
_ARTICLE = r"A(?=\s+(?!(?:or|and|is)\b)[a-z])"  # as in "A cat"
_LETTERS = re.compile(r"\W*[A-H](?:(?:\s*(?:,|;|&|and)?\s*)[A-H])*\W*")
_LETTERS_STATED = re.compile(rf"(?i:answers?(?:\s+(?:is|are))?\W{{0,6}}){_LETTERS.pattern}(?![A-Za-z'])")
_STANDING = re.compile(rf"(?<![A-Za-z'])(?!{_ARTICLE})([A-H])(?![A-Za-z'])")


def extract_answer(text: str, form: AnswerForm, choices: Sequence[str]) -> tuple[str | None, str | None]:
    """``(thinking, answer)`` of a reply to a question whose answer has this form, with these options.

    Thinking that never ends leaves no answer, since what stands in it is no answer yet.
    """
    thinking, rest, closed = split_thinking(text)
    if not closed:
        return thinking, None
    answer = final_answer(text) or rest
    if form == "option":
        return thinking, option(answer, len(choices)) or None
    if form == "letters":
        return thinking, letters(answer) or None
    return thinking, yes_or_no(answer) if form == "yes_no" else answer or None


def option(text: str, count: int) -> str:
    """The letter of one of ``count`` options that ``text`` names; else ``text``, which may be an option's content."""
    for letters in (
        [match[1] for match in [_ALONE.fullmatch(text)] if match],
        [match[1] for match in _STATED.finditer(text)][-1:],
        [match[1] for match in [_LEADING.match(text)] if match],
        sorted({match[1] for match in _STANDING.finditer(text)}),
    ):
        if len(letters) == 1 and ord(letters[0].upper()) - ord("A") < count:
            return letters[0].upper()
    return text


def letters(text: str) -> str:
    """The letters that ``text`` names, sorted and joined (`AC`); else ``text``."""
    stated = [match[0] for match in _LETTERS_STATED.finditer(text)][-1:]
    named = text if _LETTERS.fullmatch(text) else re.sub("^.*?(?i:answers?)", "", stated[0]) if stated else ""
    found = sorted(set(re.findall("[A-H]", named)))
    return "".join(found) or option(text, len("ABCDEFGH"))


def yes_or_no(text: str) -> str | None:
    """`yes` or `no` if ``text`` has only that one of the two words."""
    found = YES_NO.intersection(re.findall(r"[a-z]+", text.lower()))
    return next(iter(found)) if len(found) == 1 else None
