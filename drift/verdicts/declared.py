"""The answer that a reply without a box declares, found where a person looks for it.

In this order: ``<answer>``, a stated answer ("The answer is …", "Answer: …"), one in bold, the last line, the right
side of the last equation, the end of the last sentence. Two answers that contradict each other are none.
"""

from __future__ import annotations

import re

from drift.verdicts.numbers import NUMBER_WORDS, parse_number, same_number
from drift.verdicts.plain import bare, plain, squeezed
from drift.verdicts.times import read_dates, read_time

_NAMES = r"\s*(?:answer|final_answer|ans)\s*"
_TAG = re.compile(rf"<{_NAMES}>(.*?)(?:<\s*/{_NAMES}>|$)", re.DOTALL | re.IGNORECASE)
_SHARPS = re.compile(r"^####\s*(\S.*)$", re.MULTILINE)
_MARK = r"[\s*_#`]*"
_STATED = re.compile(
    rf"(?P<final>final(?:ly)?,?\s+)?(?:\w+\s+)?\b(?:answers?|result|solution)(?:\s+(?:to|of|for)\s+(?:this|the|"
    rf"your)\s+(?:question|problem))?{_MARK}"
    rf"(?:(?:is|are|was|equals|would be|will be|must be|should be|comes to|turns out to be)(?![a-z]){_MARK}:?|"
    rf"[:：=]|(?=\*\*\s*\n)|(?<=\n)){_MARK}(?=(?P<answer>\S[^\n]{{0,300}}))",
    re.IGNORECASE,
)
_HEADED = re.compile(r"^\W*(?P<final>final )?answer\W*\n+\s*(?P<answer>\S[^\n]{0,300})$", re.IGNORECASE | re.MULTILINE)
_CHINESE = re.compile(r"(?:最终)?(?:答案|结果)(?:是|为|[:：])+\s*(?P<answer>[^\n]+)")
_END = re.compile(
    r"(?<=[^\d.])[.。!?！？](?=\s|$|\*)|(?<=\d)[.。](?=\s|$|\*)|[;；](?=\s)|。|\s\(?(?:because|since|as|so that|which|"
    r"given that|where|due to)\b|"
    r",\s*(?:because|since|as|so|which|where|and (?:the|so|this|that)|not)\b"
)
_LEAD = re.compile(
    r"^(?:therefore|thus|simply|clearly|probably|likely|most likely|indeed|then|just|exactly|:|=|，)+[\s,:]*",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"^(?:not|n't|neither|never|no longer|definitely not|certainly not|isn't|cannot be)\b(?!\s+(?:possible|enough))",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|might|could|possibly|not sure|unsure|either|neither|cannot|can't|don't|unable|unclear|"
    r"impossible|guess|unknown|not)\b|n't\b",
    re.IGNORECASE,
)
_RETRACTED = re.compile(
    r"\b(?:wait|actually|correction|sorry|oops|no,|mistake|instead|rather|let me re|recalculat|on second thought)",
    re.IGNORECASE,
)
_DENIED = re.compile(r",?\s+(?:and\s+|but\s+)?not\s+[^,.;]+$", re.IGNORECASE)
_BRACKETED = re.compile(r"\s\((?=[A-Za-z]{2})[^()]*\)")
_ASIDE = re.compile(
    r",?\s+(?:which|that is|i\.e\.|because|since|so that)\s|\s\((?=[A-Za-z]{2})|"
    r",\s+(?:the|an?|in|on|at|with|of|from|near|where|as|so)\s",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*(?!\s)([^*\n]+?)(?<!\s)\*\*")
_VERB = re.compile(
    r"\b(?:is|are|was|were|equals?|be|gives?|get|gets|got|makes?|make|totals?|reads?|shows?|measures?|says?|"
    r"costs?|has|have|had|contains?|weighs?|"
    r"becomes?|leaves?|yields?|obtain|find|count|see|to be|comes to|adds? up to|of about|about)\s+(?!not\b)",
    re.IGNORECASE,
)
_IS = re.compile(
    r"\b(?:is|are|was|were|be|equals?|shows?|says?|reads?|means|indicates?|depicts?|called|named|"
    r"named)\s+(?:called\s+|a picture of\s+)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"(?<![\w.\\^{])(?:\$\s?)?[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?(?![\w}])|\$[^$]+\$|"
    r"\\frac\{[^{}]*\}\{[^{}]*\}"
)
MAX_WORDS = 6


def declared_answer(text: str) -> str | None:
    """The answer that ``text`` declares; None if it declares none, or two that contradict each other."""
    for read in (_tagged, _stated, _in_bold, _last_line, _last_equation, _last_sentence):
        found = read(text)
        if found is not None:
            return found or None
    return None


def is_bare(text: str) -> bool:
    """Whether ``text`` is nothing but an answer: a line without a sentence in it."""
    text = text.strip()
    if not text or "\n" in text or len(text) > 120:
        return False
    if parse_number(text) or read_time(text) or read_dates(text):
        return True
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", " ", plain(text)))
    sentence = re.search(
        r"(?i)\b(?:is|are|was|were|equals|answer|because|so|cannot|can't|don't|it|there|this|that|I|we|gives|"
        r"makes)\b|答案|####|</?\w+>",
        plain(text),
    )
    if sentence or re.search(r"[^\W\d_]{3,}\s*[:：]", plain(text)):
        return False
    return len(words) <= 5 and ("=" not in text or not {*map(str.lower, words)} - {"and", "or"})


def _tagged(text: str) -> str | None:
    found = [match[1] for match in _TAG.finditer(text) if match[1].strip()] or [
        match[1] for match in _SHARPS.finditer(text)
    ]
    return _one_of(text, [(0, bare(answer)) for answer in found]) if found else None


def _stated(text: str) -> str | None:
    """Of the statements that hold; empty text if they contradict each other or are all denied."""
    matches = [match for pattern in (_STATED, _HEADED, _CHINESE) for match in pattern.finditer(text)]
    matches.sort(key=lambda match: match.start())
    final = [match for match in matches if match.groupdict().get("final")]
    found = [(match.start(), _until_end(match["answer"])) for match in final or matches]
    holds = [(place, answer) for place, answer in found if answer and not _NEGATED.search(answer)]
    if not matches:
        return None
    return _one_of(text, holds) if holds else ""


def _until_end(answer: str) -> str:
    """``answer`` to the end of its sentence, without emphasis."""
    answer = re.sub(r"\*\*|__", "", answer).strip()
    answer = _LEAD.sub("", answer)
    end = _END.search(answer)
    answer = bare(answer[: end.start()] if end else answer)
    return _last_sentence(answer) or answer if re.search(r"\b(?:is|are|was|were|equals)\b", answer) else answer


def _one_of(text: str, found: list[tuple[int, str]]) -> str:
    """The answer that all statements agree on; the last one's if it takes the others back; else empty."""
    last = found[-1][1]
    others = [one for one in found if not _agree(one[1], last)]
    if not others or _RETRACTED.search(text[others[-1][0] : found[-1][0]]):
        return last
    return ""


def _agree(one: str, other: str) -> bool:
    first, second = parse_number(one), parse_number(other)
    if first and second:
        return "incorrect" not in (same_number(first, second), same_number(second, first))
    return squeezed(one).casefold() == squeezed(other).casefold()


def _in_bold(text: str) -> str | None:
    """What stands in bold, if it is one thing."""
    found = [match[1].strip() for match in _BOLD.finditer(text)]
    answers = [
        one for one in found if not re.search(r"[:：]$|^(?:step|note|given|solution|explanation)\b", one, re.IGNORECASE)
    ]
    if not answers or len(answers) > 3 or len(answers[-1].split()) > MAX_WORDS or _HEDGE.search(answers[-1]):
        return None
    sentence = next((line for line in text.splitlines() if f"**{answers[-1]}**" in line), "")
    if re.search(r"(?i)\bnot\s*\**$|n't\s*\**$", sentence.split(f"**{answers[-1]}**")[0]):
        return None
    if all(_agree(one, answers[-1]) for one in answers):
        return _part_of_sentence(answers[-1])
    last = text.strip().splitlines()[-1]
    return answers[-1] if bare(last) == answers[-1] else None


def _last_line(text: str) -> str | None:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    last = re.sub(r"^(?:[-*•]\s+|=>\s*|→\s*|∴\s*)", "", lines[-1]) if lines else ""
    return bare(last) if len(lines) > 1 and is_bare(last) else None


def _last_equation(text: str) -> str | None:
    """The right side of the last equation of the last sentence that has one."""
    for sentence in reversed([_BRACKETED.sub("", sentence) for sentence in _sentences(text)[-3:]]):
        if re.search(r"[=≈]|\\approx", sentence) and not _HEDGE.search(re.sub(r"\$[^$]*\$", " ", sentence)):
            right = re.split(r"[=≈]|\\approx", sentence)[-1]
            words = re.split(
                r"\s(?:and|so|which|because|since|as|for|when|at|in|of|from|on)\s|,\s(?=[a-z]{2})|\s\(", right + " "
            )
            answer = bare(words[0].strip().strip("$"))
            return _part_of_sentence(answer) if answer else None
    return None


def _last_sentence(text: str) -> str | None:
    """What the last sentence says something is: its only number, or the few words at its end."""
    for sentence in reversed(_sentences(text)[-2:]):
        sentence = _ASIDE.split(_DENIED.sub("", sentence))[0]
        if _HEDGE.search(sentence):
            return None
        for read in (_only_number, _complement):
            if (found := read(sentence)) is not None:
                return found
    return None


def _sentences(text: str) -> list[str]:
    parts = re.split(r"(?<=[^\d\s])[.!?。！？]+(?=\s|$)|(?<=\d)[.。]+(?=\s|$)|\n+|。", text.replace("**", ""))
    return [part.strip() for part in parts if part.strip()]


def _only_number(sentence: str) -> str | None:
    """The number of a sentence that has one, with its unit, but without the thing it counts."""
    flat = re.sub(r"\\\(|\\\)", "$", sentence)
    found = [*_NUMBER.finditer(flat), *NUMBER_WORDS.finditer(flat)]
    if len(found) > 1 and (verbs := list(_VERB.finditer(flat))):
        found = [match for match in found if match.start() >= verbs[-1].end()] or found
    if len(found) != 1:
        return None
    if found[0][0].endswith("$"):
        return bare(found[0][0].strip("$"))
    return _part_of_sentence(flat[found[0].start() :])


def _part_of_sentence(text: str) -> str:
    """The longest beginning of ``text`` that is a number with a known unit; ``text`` if it begins with none."""
    words = bare(text).split()
    for end in range(min(len(words), 8), 0, -1):
        part = " ".join(words[:end]).rstrip(",;:")
        if _is_plain_number(part):
            return part
    return bare(text)


def _is_plain_number(text: str) -> bool:
    number = parse_number(text)
    return (number is not None and number.word is None) or read_time(text) is not None or bool(read_dates(text))


def _complement(sentence: str) -> str | None:
    found = list(_IS.finditer(sentence))
    if not found:
        return None
    answer = re.sub(r"^(?:on|in|at)\s+", "", bare(sentence[found[-1].end() :]))
    return answer if answer and len(answer.split()) <= MAX_WORDS and not _NEGATED.search(answer) else None
