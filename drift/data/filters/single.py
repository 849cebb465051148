r"""The filters of one chain: each looks at a candidate and says why it is rejected, or nothing.

`chain_filters` is the list of those that a configuration asks for, in the order in which they are asked; the first
reason is the one that is counted. docs/filters.md has a row for each.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable

from drift.config.data import CurateConfig
from drift.data.filters.candidates import Candidate, Reason
from drift.verdicts.extract import BOXED, CLOSE, OPEN, SPECIAL_TOKEN, boxes, final_answer, split_thinking

LOOP_TOKENS = 20
LOOP_COMPRESSION = 8.0
"""Right answers of seven models to MMLU-Pro, 22,716 of 50 words and more: of those that came to an end none has half of
its tokens in repeated runs of 20 and shrinks under zlib to an eighth as well; 133 that went round in circles have."""

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+|[^\w\s]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_SHORT = re.compile(r"(?<![^\W\d_])[A-Za-z]{1,3}(?![^\W\d_])")
_UNIFIED = {"CJK": "Han", "IDEOGRAPHIC": "Han"}
_MATHEMATICS = {"Greek", "Mathematical", "Script", "Double-Struck", "Black-Letter"}

_VALUE = r"(?=[\s$(*\"'`:]*(?:\\[a-z]|-?\d|(?-i:[A-H])\b))"
_TOLD = (
    r"\b(?:standard|reference|gold(?:en)?|official|ground[- ]truth) answer (?:that (?:is|was) )?"
    r"(?:given|provided|supplied)",
    r"\b(?:reference|gold(?:en)?|official|ground[- ]truth) answer (?:is|was|says|states|gives|shows)\b",
    r"\b(?:to|per|by|from|with|match|matches|matching) the (?:standard|reference|gold(?:en)?|official|ground[- ]truth|"
    r"given|provided|supplied|known) answer\b(?! choice| option| format| set| list)",
    rf"\bthe (?:given|provided|supplied) (?:correct |final )?answer (?:is|was|says|states|gives|shows){_VALUE}",
    r"\banswer (?:is|was) (?:already )?known to be\b",
    r"\b(?:to|per|from|with|match|matches) the (?:answer|solution) key\b",
    r"\b(?:answer|solution) key (?:is|says|states|gives|shows)\b",
    rf"\b(?:given|knowing|told|informed)(?: that)? the (?:correct |final |right |true )?answer is{_VALUE}",
    r"(?:标准|参考)答案(?:是|为|给出)|根据(?:标准|参考|给定的?)答案(?!选项)|已知答案(?:是|为)",
)
_LEAK = re.compile("|".join(_TOLD), re.IGNORECASE)
"""Words of one who was told the answer. `The answer is 7`, `the given answer choices`, `the expected answer` are none:
who works it out says them too. Of 102,036 answers to MMLU-Pro and GSM8K two are caught, both wrong."""


def chain_filters(config: CurateConfig) -> list[tuple[str, Reason]]:
    """The filters that ``config`` asks for, each with its stage in the funnel, in their order."""
    asked: list[tuple[str, Reason, bool]] = [
        ("finish", unfinished, True),
        ("format", malformed, config.require_format),
        ("correct", wrong, config.require_correct),
        ("pass_rate", solved_outside(config.min_pass_rate, config.max_pass_rate), True),
        ("repetition", repetitive(config.max_repeated), config.max_repeated < 1),
        ("leak", leaking, config.drop_leaks),
        ("language", in_other_scripts(config.scripts or (), config.max_other_scripts), config.scripts is not None),
    ]
    return [(stage, reason) for stage, reason, on in asked if on]


def unfinished(candidate: Candidate) -> str | None:
    """`truncated` at the token limit, `empty`, or with a `special_token` that a student would read as control."""
    if candidate.finish_reason == "length":
        return "truncated"
    if not candidate.text.strip():
        return "empty"
    return "special_token" if SPECIAL_TOKEN.search(candidate.text) else None


def malformed(candidate: Candidate) -> str | None:
    r"""Why a text is not exactly ``<think>reasoning</think> \boxed{answer}``; None if it is.

    Whitespace inside tags and braces, math signs around the box and a closing period do not matter.
    """
    text = candidate.text
    if len(OPEN.findall(text)) != 1 or len(CLOSE.findall(text)) != 1:
        return "think_tags"
    thinking, rest, closed = split_thinking(text)
    if not closed or not OPEN.match(text.strip()):
        return "think_order"
    if not thinking:
        return "empty_reasoning"
    found = boxes(rest)
    if len(BOXED.findall(rest)) != 1 or len(found) != 1 or not found[0][2]:
        return "boxed"
    around = rest[: found[0][0]] + rest[found[0][1] :]
    return "text_around_answer" if re.sub(r"[\s$.]|\\[()\[\]]", "", around) else None


def wrong(candidate: Candidate) -> str | None:
    """The verdict, unless it is `correct`."""
    return None if candidate.status == "correct" else candidate.status


def solved_outside(lowest: float, highest: float) -> Reason:
    """`too_easy`: the teacher solves the problem more often than ``highest``; `too_hard`: less than ``lowest``."""

    def reason(candidate: Candidate) -> str | None:
        if candidate.pass_rate > highest:
            return "too_easy"
        return "too_hard" if candidate.pass_rate < lowest else None

    return reason


def repetitive(max_repeated: float) -> Reason:
    """`loop`: more than ``max_repeated`` of the tokens repeat, and the text shrinks as only circles do."""

    def reason(candidate: Candidate) -> str | None:
        content = candidate.text.encode("utf-8", "replace")
        if len(content) < LOOP_COMPRESSION * len(zlib.compress(content)):
            return None
        return "loop" if repeated_share(candidate.text) > max_repeated else None

    return reason


def repeated_share(text: str) -> float:
    """Share of the tokens that stand in a run of `LOOP_TOKENS` that stood before. A Han character is a token."""
    tokens = _TOKEN.findall(text)
    seen: set[int] = set()
    repeated = bytearray(len(tokens))
    for start in range(len(tokens) - LOOP_TOKENS + 1):
        run = hash(tuple(tokens[start : start + LOOP_TOKENS]))
        if run in seen:
            repeated[start : start + LOOP_TOKENS] = b"\1" * LOOP_TOKENS
        seen.add(run)
    return sum(repeated) / max(1, len(tokens))


def leaking(candidate: Candidate) -> str | None:
    """`gold_leak`: the text speaks of an answer that it was told, in words that its problem does not use."""
    said = (" ".join(match[0].split()).casefold() for match in _LEAK.finditer(" ".join(candidate.text.split())))
    asked = " ".join(candidate.problem.split()).casefold()
    return "gold_leak" if any(words not in asked for words in said) else None


def in_other_scripts(scripts: Iterable[str], most: float) -> Reason:
    """`other_script`: more than the share ``most`` of the letters are of none of ``scripts``."""
    allowed = set(scripts)

    def reason(candidate: Candidate) -> str | None:
        letters = script_counts(candidate.text)
        others = sum(count for script, count in letters.items() if script not in allowed)
        return "other_script" if others > most * letters.total() else None

    return reason


def script_counts(text: str) -> Counter[str]:
    """Letters by Unicode script; without what mathematics writes in any language.

    That is LaTeX's commands, Latin names of up to three letters (`x`, `ABC`, `sin`, `cm`), Greek letters.
    """
    text = _SHORT.sub(" ", _COMMAND.sub(" ", unicodedata.normalize("NFKC", text)))
    return Counter(script for letter in text if letter.isalpha() and (script := script_of(letter)) not in _MATHEMATICS)


def script_of(letter: str) -> str:
    """`Latin`, `Han`, `Cyrillic`: the first word of a letter's Unicode name, which is its script's."""
    name = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
    return _UNIFIED.get(name, name.title())


def normalised(text: str) -> str:
    r"""``<think>\n...\n</think>\n\n\boxed{...}``: whitespace around the tags made equal, the rest untouched.

    A text that has not both parts is only stripped.
    """
    thinking, _, closed = split_thinking(text)
    answer = final_answer(text)
    if not thinking or not closed or answer is None:
        return text.strip()
    return f"<think>\n{thinking}\n</think>\n\n\\boxed{{{answer}}}"
