r"""From what a model wrote to its answer, and how it was read.

read      boxed (the last \boxed{}) · declared (said to be the answer) · bare (the whole reply) · none

Thinking is split off first and is never an answer. None as answer means that the reply holds none, or several that
contradict each other: it counts as `unparsed`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drift.verdicts.declared import declared_answer, is_bare
from drift.verdicts.extract import MARKER, boxes, split_thinking, unboxed
from drift.verdicts.letters import (
    is_contradictory,
    is_named_by_letters,
    letters_of,
    option_in,
    option_of,
    stated_letters,
)
from drift.verdicts.plain import bare, plain, unwrapped

AnswerForm = Literal["option", "letters", "yes_no", "open"]
"""One of the options; letters of options that are not in the table, perhaps several; yes or no; anything."""

Read = Literal["boxed", "declared", "bare", "none"]

YES_NO = frozenset({"yes", "no"})

HEAD, TAIL = 1_000, 3_000
"""Characters of a long reply that are searched for an answer outside a box."""

_DENIED = re.compile(
    r"(?i)^[\s$.,]*(?:is|was|would be|are)\s+(?:not|wrong|incorrect|impossible|false)|^[\s$.,]*(?:isn't|cannot|can't)"
)
_JOINED = re.compile(r"[\s$,.;]*(?:\b(?:and|or)\b|,|;|&)?[\s$]*")
_TAG = re.compile(r"<\s*answer\s*>(.*?)(?:<\s*/\s*answer\s*>|$)", re.DOTALL | re.IGNORECASE)
_YES = re.compile(r"(?i)\b(yes|no)\b")
_STATED_YES = re.compile(
    r"(?i)\banswers?\W{0,4}(?:is|are|:|：|=)?[\s*:\"']{0,6}(?:a (?:clear )?|simply |therefore |definitely )?(yes|no)\b"
)
_SAID_YES = re.compile(
    r"(?i)(?:^|[\"'.,;:!?—-]\s*|\bis\s+|\bsay\s+|\bwould be\s+|\bso\s+)(?:a\s+)?(?:yes|no)\b\s*(?:[\"'.,;:!?\n]|$)"
)
_TRUE = {
    "true": "yes",
    "correct": "yes",
    "right": "yes",
    "false": "no",
    "incorrect": "no",
    "wrong": "no",
    "是": "yes",
    "否": "no",
}


@dataclass(frozen=True)
class Extracted:
    """A reply taken apart: its thinking, its answer (None without one), and how the answer was read."""

    thinking: str | None
    answer: str | None
    read: Read


def extract_answer(text: str, form: AnswerForm, choices: Sequence[str]) -> Extracted:
    """The answer of a reply to a question whose answer has this form, with these options.

    Thinking that never ends leaves no answer, since what stands in it is no answer yet.
    """
    thinking, rest, closed = split_thinking(text)
    rest = MARKER.sub("", rest).replace("</s>", "").strip()
    if not closed or not rest:
        return Extracted(thinking, None, "none")
    content = _boxed(rest)
    reading = {"option": _option, "letters": _letters, "yes_no": _yes_no, "open": _open}[form]
    if content is not None:
        answer: str | None = reading(content, choices, True)[0] or content
        return Extracted(thinking, answer, "boxed")
    answer, read = reading(_ends(unwrapped(rest).strip()), choices, False)
    return Extracted(thinking, answer or None, read if answer else "none")


def read_reply(text: str, gold: str, choices: Sequence[str] = ()) -> Extracted:
    """`extract_answer`, in the form that the gold answer has."""
    form: AnswerForm = "open"
    if choices:
        form = "option" if len(letters_of(gold) or "x") == 1 else "letters"
    elif is_named_by_letters(gold):
        form = "letters"
    elif plain(gold).casefold() in YES_NO:
        form = "yes_no"
    return extract_answer(text, form, choices)


def _ends(text: str) -> str:
    """Beginning and end of a long text, where people look for its answer, without runs of blanks."""
    text = re.sub(r"[^\S\n]{2,}", " ", re.sub(r"\n\s*\n", "\n\n", text))
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n\n{text[-TAIL:]}"


def _boxed(text: str) -> str | None:
    """Content of the last box that the text does not deny; boxes joined by "and" are one answer of several parts."""
    found = [one for one in boxes(text) if one[2] and not _DENIED.match(text[one[1] : one[1] + 40])]
    if not found:
        return None
    parts = [unboxed(found[-1][2])]
    for before, after in zip(reversed(found[:-1]), reversed(found[1:]), strict=True):
        if not _JOINED.fullmatch(text[before[1] : after[0]]) or not re.search(r"[^\s$]", text[before[1] : after[0]]):
            break
        parts.append(unboxed(before[2]))
    return ", ".join(reversed(parts)) or None


Reading = tuple[str | None, Read]


def _open(text: str, choices: Sequence[str], inside: bool) -> Reading:
    if inside:
        return text, "boxed"
    if is_bare(text):
        return bare(text), "bare"
    if (found := declared_answer(text)) is not None:
        return found, "declared"
    return None, "none"


def _option(text: str, choices: Sequence[str], inside: bool) -> Reading:
    """A letter, several joined by a comma (which is no right answer to one question), or an option's content."""
    for part, read in _tagged(text):
        letters = option_of(part, choices, _same_words)
        if letters:
            return ", ".join(sorted(letters)), "bare" if read == "bare" and is_bare(part) else "declared"
        if inside or read == "declared" or is_contradictory(part, choices, _same_words):
            return part, read
    if letters := _many(text):
        return ", ".join(sorted(letters)), "bare"
    if letters := stated_letters(text) or _last_line(text, choices):
        return ", ".join(sorted(letters)), "declared"
    content = declared_answer(text)
    for sentence in filter(None, (content, text)):
        if letters := option_in(sentence, choices):
            return ", ".join(sorted(letters)), "declared"
    if is_bare(text):
        return bare(text), "bare"
    return (content, "declared") if content else (None, "none")


def _same_words(option: str, given: str) -> bool:
    return bare(option).casefold() == bare(given).casefold()


def _tagged(text: str) -> list[tuple[str, Read]]:
    """The text, or what an answer's tag in it holds."""
    tags = [match[1].strip() for match in _TAG.finditer(text) if match[1].strip()]
    return [(tags[-1], "declared")] if tags else [(text, "bare")]


def _many(text: str) -> frozenset[str] | None:
    return letters_of(text) if len(text) < 40 else None


def _last_line(text: str, choices: Sequence[str]) -> frozenset[str] | None:
    """Letters that the last line is, or that stand in bold alone."""
    lines = [line for line in text.splitlines() if line.strip()]
    bold = re.findall(r"\*\*\s*(\(?[A-H]\)?[.:)]?(?:[ ,]\s*[^*\n]{0,60})?)\s*\*\*", text)
    for part in [*(lines[-1:] if len(lines) > 1 else []), *bold[-1:]]:
        found = option_of(part, choices, lambda option, given: False)
        if found:
            return found
    return None


def _letters(text: str, choices: Sequence[str], inside: bool) -> Reading:
    """Letters, sorted and joined (`AC`), else the text of a short answer."""
    for part, read in _tagged(text):
        glued = plain(part) if re.fullmatch("[A-H]{2,8}", plain(part)) else ""
        if letters := frozenset(glued) or option_of(part, (), lambda option, given: False):
            return "".join(sorted(letters)), read if read == "declared" or _alone(part) else "declared"
    if letters := stated_letters(text) or _last_line(text, ()):
        return "".join(sorted(letters)), "declared"
    answer, read = _open(text, choices, inside)
    return answer, read


def _alone(text: str) -> bool:
    return letters_of(text) is not None or len(text) <= 4


def _yes_no(text: str, choices: Sequence[str], inside: bool) -> Reading:
    """`yes` or `no`: stated, leading, last, or the only one of the two words."""
    flat = re.sub(r"\*\*|__|`|\$", "", text).strip()
    if (word := plain(flat).casefold().strip(" .!")) in YES_NO | set(_TRUE):
        return _TRUE.get(word, word), "bare"
    tags = _tagged(text)[0]
    if tags[1] == "declared":
        return _yes_no(tags[0], choices, True)[0], "declared"
    stated = {match[1].lower() for match in _STATED_YES.finditer(flat)}
    if stated:
        return (next(iter(stated)) if len(stated) == 1 else None), "declared"
    lead = re.match(
        r"(?i)\W*(yes|no)\b(?!\s+(?:\w+\s+){0,2}(?:or|and)\s+(?:yes|no)\b)\s*(?:[,.;:!\n-]|$|(?:it|there|the|this|they)\b)",
        flat,
    )
    if lead:
        return lead[1].lower(), "declared"
    found = {
        match[1].lower() for match in _YES.finditer(flat) if not re.search(r"(?i)\bnot\s+$", flat[: match.start()])
    }
    return (next(iter(found)) if len(found) == 1 and _decided(flat) else None), "declared"


def _decided(text: str) -> bool:
    """Whether the only yes or no of a text is its answer, and no part of a sentence such as "there is no line"."""
    return _SAID_YES.search(text) is not None
