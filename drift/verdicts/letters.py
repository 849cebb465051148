"""Letters of options as replies name them: alone, stated, in lists, negated; and options named by their content."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from drift.verdicts.plain import bare, plain, unwrapped

_ARTICLE = r"A\s+(?!(?:or|and|is|because|since|as|if|only|for|but)\b)[a-z]"  # as in "A cat"
_LETTER = rf"(?:(?<![A-Za-z'’\\^_=+*/<-])(?!{_ARTICLE})[A-H](?![A-Za-z'’_\d^=+*/<>]|-\w))"
_AT = rf"[(\[\"']{{0,3}}{_LETTER}[)\]\"']{{0,3}}"
_LIST = rf"{_AT}(?:\s*(?:,|;|&|/|\band\b|\bor\b)+\s*(?:(?:and|or)\s+)?(?:(?:options?|choices?)\s+)?{_AT}){{0,7}}"
_OPTION = r"(?:(?:both\s+)?(?:options?|choices?|letters?|statements?)\s+)?"
_IS = r"(?:is|are|was|were|be|would be|must be|should be|will be|:|：|=|-|is:|are:)"
_STATED = (
    re.compile(rf"(?i:\b(?:so|thus|therefore|hence)[,:]?\s+(?:it(?:'s| is)\s+)?)({_LIST})(?=\W*$)"),
    re.compile(
        rf"(?i:(?:answers?|options?|choices?)(?:\s+(?:here|to (?:this|the) question|"
        rf"for this question))?\s*{_IS}(?:\s*(?:therefore|thus|simply|clearly|most likely|likely|"
        rf"probably))?[\s:]*{_OPTION})({_LIST})"
    ),
    re.compile(rf"(?i:\b(?:answers?)\s+{_OPTION})({_LIST})"),
    re.compile(
        rf"(?i:\b(?:choose|select|pick|selected|chose|go(?:ing)? with|went with|opt for|answer with|"
        rf"conclude(?: that it is)?)\s+{_OPTION})({_LIST})"
    ),
    re.compile(
        rf"(?i:{_OPTION})({_LIST})\s+(?i:(?:is|are|seems?|must be|would be|looks?)\s+(?:(?:the|both|all|clearly|"
        rf"indeed|therefore|most likely)\s+)*(?:correct|right|true|best|answers?|only (?:correct|right)))"
    ),
    re.compile(rf"(?i:故选|应选|选择|选|答案(?:是|为|选)?[:：]?)\s*({_AT}(?:\s*[、,，和]?\s*{_AT})*|[A-H]{{2,}})"),
    re.compile(
        rf"(?i:matches|corresponds? to|points? to|means|gives|is shown in|is therefore|it is|it's|it must be|"
        rf"this is|that is|so|thus|therefore|hence)[\s,:]+(?i:(?:options?|choices?)\s+)({_LIST})"
    ),
)
_FINAL = re.compile(r"(?i)final(?:ly)?\b.{0,20}$")
_NEGATED_BEFORE = re.compile(
    r"(?i)(?:\bnot|n't|n’t|\bnever|\bneither|\bnor|\bexcept|\beliminat\w*|\bexclud\w*|\brul\w+ out|\breject\w*|"
    r"\bincorrect|\bwrong|\brather than|\binstead of)"
    r"[\s:]+(?:be\s+|is\s+)?(?:the\s+|an?\s+)?(?:options?\s+|choices?\s+|answers?\s+|letter\s+)?[(\[\"']*$"
)
_NEGATED_AFTER = re.compile(
    r"(?i)^[)\]\"']*\s*(?:(?:is|are|was|were|can|could|must|should|would|may|does|do|has|seems?)\s*(?:be\s+|"
    r"to be\s+|definitely\s+|clearly\s+|also\s+)*)?"
    r"(?:n't|n’t|not\b|incorrect|wrong|false|excluded|eliminated|ruled out|impossible|rejected|out\b|cannot|can't)"
)
_CONDITIONAL = re.compile(r"(?i)^[)\]\"'.]*\s*(?:only\s+)?(?:if|unless|when|were)\b")
_RETRACTED = re.compile(
    r"(?i)\b(?:wait|actually|correction|sorry|oops|no,|mistake|let me re|on second thought|instead|scratch that)"
)
_STANDING = re.compile(
    rf"(?:^|(?i:(?:\bis|\bbe|\bare|option|choice|answer|\bto|\bwith|\bsay|\bso|thus|therefore|hence|guess|it's|"
    rf"\bpick|\bboth|letter)[\s:,]+)|[.!?:]\s+|\n\s*|(?=\())({_LIST})"
    rf"(?=[)\]\"']*\s*(?:$|[.,;:!?)\n]|because|since|as\b|only\b|[(]|- |is\b|are\b|for\b))"
)
_ALONE = re.compile(r"\W*([A-Ja-j])\W*")
_LEADING = re.compile(r"[(\[]?([A-H])[)\]]?\s*[.:)\]]\)?\s*(\S.*)|\(([A-H])\)\s*(\S.*)|([a-h])\)\s*(\S.*)", re.DOTALL)
_SEVERAL = re.compile(
    r"(?:(?:options?|choices?)\s+)?[(\[]?([A-J])[)\]]?(?:\s*(?:,|;|&|\band\b|，|"
    r"、)+\s*(?:and\s+)?[(\[]?[A-J][)\]]?)+\.?"
)
_GLUED = re.compile(r"[A-J]{2,8}")

Equal = Callable[[str, str], bool]


def letters_of(text: str) -> frozenset[str] | None:
    """The letters that ``text`` is, and nothing else: ``B``, ``(B)``, ``A, C``, ``ABD``; else None."""
    text = plain(text)
    if re.fullmatch(r"[(\[]?[A-J][)\]]?[.:]?", text):
        return frozenset(re.findall("[A-J]", text))
    if _SEVERAL.fullmatch(text):
        return frozenset(re.findall(r"\b[A-J]\b", text))
    if _GLUED.fullmatch(text) and list(text) == sorted(set(text)):
        return frozenset(text)
    return None


def is_named_by_letters(text: str) -> bool:
    """Whether ``text``, a gold without options, is letters of options: in order, since `B, A, C` is a ranking."""
    found = re.findall("[A-J]", plain(text))
    return letters_of(text) is not None and found == sorted(set(found))


def option_of(text: str, choices: Sequence[str], equal: Equal) -> frozenset[str] | None:
    """The options that an answer names by letter or by content; None if it names none, or one twice over.

    ``equal(option, text)`` compares contents. A content that two options share names neither.
    """
    whole, text = text, bare(plain(text))
    if (alone := _alone(text, len(choices))) is not None:
        return alone
    contents = [_without_letter(choice) for choice in choices]
    if (same := _same_contents(text, contents, lambda option, given: False)) is not None:
        return same
    if letters := letters_of(text):
        return _within(letters, len(choices))
    if leading := _LEADING.fullmatch(text):
        letter = next(group for group in leading.groups()[::2] if group).upper()
        if is_contradictory(text, choices, equal):
            return None
        return _within(stated_letters(whole) or {letter}, len(choices))
    if (same := _same_contents(text, contents, equal)) is not None:
        return same
    found = stated_letters(whole)
    return _within(found, len(choices)) if found else None


def is_contradictory(text: str, choices: Sequence[str], equal: Equal) -> bool:
    """Whether ``text`` names one option by its letter and another by its content: `B. 18 cm`, where 18 cm is C."""
    leading = _LEADING.fullmatch(bare(plain(text)))
    if leading is None:
        return False
    letter, rest = (next(group for group in leading.groups()[start::2] if group) for start in (0, 1))
    other = _same_contents(rest, [_without_letter(choice) for choice in choices], equal)
    return other is not None and letter.upper() not in other


def _alone(text: str, count: int) -> frozenset[str] | None:
    match = _ALONE.fullmatch(text)
    return _within({match[1].upper()}, count) if match and not re.search(r"[\d=<>+^_\\]", text) else None


def _within(letters: frozenset[str] | set[str], count: int) -> frozenset[str] | None:
    """The letters, if there are that many options."""
    return frozenset(letters) if not count or all(ord(letter) - ord("A") < count for letter in letters) else None


def _same_contents(text: str, contents: Sequence[str], equal: Equal) -> frozenset[str] | None:
    same = [
        chr(ord("A") + place) for place, content in enumerate(contents) if content and plain(content) == plain(text)
    ]
    same = same or [chr(ord("A") + place) for place, content in enumerate(contents) if content and equal(content, text)]
    return frozenset(same) if len(same) == 1 else None


def _without_letter(choice: str) -> str:
    return re.sub(r"^\s*(?:\([A-J]\)|[A-J][.:)])\s*(?=\S)", "", choice)


def stated_letters(text: str) -> frozenset[str] | None:
    """The letters that a text states, or that its first line is, or that stand in it as an answer would.

    None without one, with several that contradict each other, or where it is undecided.
    """
    text = _flat(text)
    stated = [
        (match.start(1), match[1]) for pattern in _STATED for match in pattern.finditer(text) if _holds(text, match)
    ]
    stated = sorted(set(stated))
    final = [one for one in stated if _FINAL.search(text[: one[0]].rsplit("\n", 1)[-1][-60:])]
    found = _agreed(text, final or stated)
    if found is not None or stated:
        return found
    if first := letters_of(text.splitlines()[0] if text else ""):
        return first
    standing = [(match.start(1), match[1]) for match in _STANDING.finditer(text) if _holds(text, match)]
    return _agreed(text, standing)


def _flat(text: str) -> str:
    """``text`` without emphasis, boxes and math signs, which may stand around a letter."""
    text = re.sub(r"\\f?boxed\s*\{\s*(?:\\text\s*\{)?\s*([^{}]*)\}+", r" \1 ", unwrapped(text))
    return re.sub(r"\*\*|__|`|\$|</?answer>|<\|[^<>|\s]{1,64}\|>|</s>", " ", text).strip()


def _holds(text: str, match: re.Match[str]) -> bool:
    before, after = text[: match.start(1)], text[match.end(1) :]
    negated = _NEGATED_BEFORE.search(before[-60:]) or _NEGATED_AFTER.match(after[:60])
    return not negated and not _CONDITIONAL.match(after[:30])


def _agreed(text: str, found: list[tuple[int, str]]) -> frozenset[str] | None:
    """The letters of all statements if they agree, of the last one if it takes the others back."""
    named = [
        frozenset(re.findall(rf"{_LETTER}|(?<=[A-H])[A-H]", one)) for _, one in found if not re.search(r"\bor\b|/", one)
    ]
    if not named or len(named) < len(found) - (len(found) > 1):
        return None
    if len(set(named)) == 1:
        return named[0]
    between = text[found[-2][0] : found[-1][0]]
    return named[-1] if _RETRACTED.search(between) else None


def option_in(text: str, choices: Sequence[str]) -> frozenset[str] | None:
    """The one option whose content stands in the sentence, not negated; None if several do, or none."""
    flat = " ".join(_flat(text).casefold().split())
    contents = {place: _content(choice) for place, choice in enumerate(choices) if _content(choice)}
    found = {place: match for place, content in contents.items() if (match := _mention(flat, content))}
    longest = [
        place
        for place in found
        if not any(
            other != place and contents[place] in contents[other] and len(contents[place]) < len(contents[other])
            for other in found
        )
    ]
    if len(longest) != 1 or sum(contents[place] == contents[longest[0]] for place in contents) > 1:
        return None
    return frozenset(chr(ord("A") + longest[0]))


def _content(choice: str) -> str:
    content = " ".join(bare(unwrapped(_without_letter(choice)).replace("$", "")).casefold().split())
    return re.sub(r"^(?:the|an|a) (?=\S)", "", content)


def _mention(text: str, content: str) -> re.Match[str] | None:
    pattern = re.compile(rf"(?<![\w.\\])(?<!\d,)(?<![-−/^]){re.escape(content)}(?![\w%/°^]|[.,:]\d)")
    return next(
        (
            match
            for match in pattern.finditer(text)
            if not re.search(
                r"(?:\bnot|n't|\bno|never|neither|rather than)\s+(?:an?\s+|the\s+)?$", text[: match.start()]
            )
        ),
        None,
    )
