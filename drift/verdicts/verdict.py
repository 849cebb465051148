r"""Typed comparison of a final answer with the gold answer, decided by rule.

kind      choice (a letter or one of the options), number, text (words), expression (anything else)
status    correct, incorrect, unparsed (no usable answer), undetermined (the verifier gave up)

Only expressions need math-verify. It parses model text with sympy, can hang, and limits itself by a wall-clock
signal that a loaded machine trips; so it runs in processes of its own, which are killed at the time limit.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

from drift.verdicts.extract import final_answer, split_thinking
from drift.verdicts.numbers import FUNCTIONS, parse_number, plain, same_number

__all__ = ["Item", "Kind", "Status", "Verdict", "answer_kind", "equal", "final_answer", "split_thinking", "verify_many"]

Kind = Literal["choice", "number", "text", "expression"]
Status = Literal["correct", "incorrect", "unparsed", "undetermined"]

MAX_ANSWER_CHARACTERS = 300
"""Longer answers are `unparsed`: no gold answer is that long, and a parser's time grows with the length."""

MAX_WORKERS = 8

_LETTER = re.compile(r"\(?([A-Ja-j])\)?[.:]?|(?:\(([A-J])\)|([A-J])[.:)])\s*\S.*", re.DOTALL)
_STATED_LETTER = re.compile(r"(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?:? \(?([A-J])\)?", re.IGNORECASE)
_SIGNS = re.compile(r"[\\^_=+*/<>√π|{}()\[\]]|^-?\d+(?:\.\d+)?[A-Za-z]{1,2}$")
_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{3,}")


@dataclass(frozen=True)
class Item:
    """One comparison: an extracted answer (None if there was none) with a gold answer of a kind."""

    answer: str | None
    gold: str
    kind: Kind
    choices: Sequence[str] | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer and what became of it."""

    answer: str | None
    status: Status


def answer_kind(gold: str, choices: Sequence[str] | None = None) -> Kind:
    """Kind of a gold answer, by rule: options or a single capital letter; a number; words; an expression."""
    if choices or re.fullmatch(r"\(?[A-J]\)?\.?", plain(gold)):
        return "choice"
    if parse_number(gold) is not None:
        return "number"
    return "expression" if _looks_like_expression(plain(gold)) else "text"


def equal(
    answer: str | None, gold: str, kind: Kind, choices: Sequence[str] | None = None, timeout_seconds: float = 10
) -> Status:
    """Whether one ``answer`` equals ``gold``. An expression starts a process: use `verify_many` for many."""
    return verify_many([Item(answer, gold, kind, choices)], timeout_seconds)[0].status


def verify_many(items: Sequence[Item], timeout_seconds: float = 10) -> list[Verdict]:
    """A verdict per item, in order. Expressions go to killable processes, each for at most ``timeout_seconds``.

    What ran into the limit is tried once more at the end, and is `undetermined` if it does so again. Choices,
    numbers and words are compared here, without any process.
    """
    statuses = [_by_rule(item) for item in items]
    open_pairs = {(str(item.answer), item.gold) for item, status in zip(items, statuses, strict=True) if not status}
    decided = _by_math_verify(sorted(open_pairs), timeout_seconds)
    return [
        Verdict(item.answer, status or decided[str(item.answer), item.gold])
        for item, status in zip(items, statuses, strict=True)
    ]


def _by_rule(item: Item) -> Status | None:
    """The status without math-verify; None where only math-verify can tell."""
    if item.answer is None or not item.answer.strip() or len(item.answer) > MAX_ANSWER_CHARACTERS:
        return "unparsed"
    if item.kind == "choice":
        return _status(_same_choice(item.answer, item.gold, item.choices or ()))
    if _same_words(item.answer, item.gold):
        return "correct"
    if item.kind == "text":
        return "incorrect"
    answer, gold = parse_number(item.answer), parse_number(item.gold)
    if answer is not None and gold is not None:
        return _status(same_number(answer, gold))
    if item.kind == "number" and answer is None and not _looks_like_expression(plain(item.answer)):
        return "incorrect"
    return "correct" if _squeezed(item.answer) == _squeezed(item.gold) else None


def _status(correct: bool) -> Status:
    return "correct" if correct else "incorrect"


def _looks_like_expression(text: str) -> bool:
    words = [word for word in _WORD.findall(text) if word.lower() not in FUNCTIONS]
    return not words and _SIGNS.search(text) is not None


def _same_choice(answer: str, gold: str, choices: Sequence[str]) -> bool:
    wanted, given = _choice(gold, choices), _choice(answer, choices)
    if wanted is None or given is None:
        return _same_value(answer, gold)
    return wanted == given


def _choice(text: str, choices: Sequence[str]) -> int | None:
    """Position of the option that ``text`` names, by its letter or by its content; None if it names none."""
    text = plain(text)
    match = _LETTER.fullmatch(text) or _STATED_LETTER.fullmatch(text)
    letter = next((group for group in match.groups() if group), None) if match else None
    if letter is not None and (letter.isupper() or not any(_same_value(text, choice) for choice in choices)):
        return ord(letter.upper()) - ord("A")
    same = [place for place, choice in enumerate(choices) if _same_value(text, _without_letter(choice))]
    return same[0] if len(same) == 1 else None


def _without_letter(choice: str) -> str:
    return re.sub(r"^\s*(?:\([A-J]\)|[A-J][.:)])\s*(?=\S)", "", choice)


def _same_value(left: str, right: str) -> bool:
    first, second = parse_number(left), parse_number(right)
    if first is not None and second is not None:
        return same_number(first, second)
    return _same_words(left, right) or _squeezed(left) == _squeezed(right)


def _same_words(left: str, right: str) -> bool:
    return _words(left) == _words(right) != ""


def _words(text: str) -> str:
    """Case, articles and punctuation removed; empty where signs of an expression would be lost with them."""
    text = plain(text)
    if _looks_like_expression(text):
        return ""
    text = re.sub(r"[.,;!?'\"`]", "", text.casefold())
    return re.sub(r"^(?:the|an|a) (?=\S)", "", " ".join(text.replace("-", " - ").split()))


def _squeezed(text: str) -> str:
    """An expression without whitespace and without LaTeX's synonyms."""
    text = re.sub(r"\\[dt]frac", r"\\frac", plain(text))
    return re.sub(r"\s+", "", re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text).replace("π", r"\pi"))


# -------------------------------------------------------------------------------------- math-verify


def _by_math_verify(pairs: list[tuple[str, str]], timeout_seconds: float) -> dict[tuple[str, str], Status]:
    decided = _in_processes(pairs, timeout_seconds)
    again = [pair for pair in pairs if decided[pair] == "undetermined"]
    return decided | _in_processes(again, timeout_seconds)


def _in_processes(pairs: list[tuple[str, str]], timeout_seconds: float) -> dict[tuple[str, str], Status]:
    if not pairs:
        return {}
    from pebble import ProcessExpired, ProcessPool

    workers = min(os.cpu_count() or 1, MAX_WORKERS, len(pairs))
    decided: dict[tuple[str, str], Status] = {}
    context = multiprocessing.get_context("forkserver")
    with ProcessPool(max_workers=workers, context=context, initializer=_import_math_verify) as pool:
        results = pool.map(_compare, pairs, timeout=timeout_seconds).result()
        for pair in tqdm(pairs, desc="verify", unit="answer", disable=len(pairs) < 100):
            try:
                decided[pair] = next(results)
            except (FutureTimeoutError, ProcessExpired):
                decided[pair] = "undetermined"
    return decided


def _import_math_verify() -> None:
    """Before the first item, so that its time limit does not count the import."""
    import math_verify

    logging.getLogger(math_verify.__name__).setLevel(logging.ERROR)  # it warns that its own time limits are off


def _compare(pair: tuple[str, str]) -> Status:
    """Runs in a worker. math-verify's own time limits are off: they are wall time and end in a silent False."""
    from math_verify import LatexExtractionConfig, parse, verify

    try:
        answer, gold = (parse(_latex(text), [LatexExtractionConfig()], parsing_timeout=None) for text in pair)
        if not gold:
            return "undetermined"
        return _status(bool(answer) and verify(gold, answer, timeout_seconds=None))
    except Exception:  # sympy raises many kinds on text that is no mathematics
        return "undetermined"


def _latex(text: str) -> str:
    text = plain(text).replace("°", "").replace("×", r"\times ").replace("π", r"\pi ")
    return "$" + re.sub(r"√\s*[(]?(\d+)[)]?", r"\\sqrt{\1}", text) + "$"
