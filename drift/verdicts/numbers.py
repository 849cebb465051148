r"""Numbers with their units as people and models write them, read exactly.

The decimal point is never punctuation. Commas group thousands (``1,234``) or, alone, may be a decimal comma
(``1,5``). A value is rounded only where the gold answer says so: by ``≈``, or because the other side is an exact
value that no decimal can hold.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from drift.verdicts.exact import NotExactError, evaluate
from drift.verdicts.plain import CACHED, MAX_ANSWER_CHARACTERS, plain
from drift.verdicts.units import convert, read_unit

Equality = Literal["correct", "incorrect", "undetermined"]

EXACT_DIGITS = 3
"""Digits from which on a decimal may stand for a fraction that has no end, as 0.333 and 33.3 for thirds."""

_NAME = re.compile(
    r"^((?:m?\\(?:angle|triangle)\s*)?\\?[A-Za-z][A-Za-z']{0,7}(?:_\{?\w+\}?)?(?:\([a-zA-Z]\))?)\s*=\s*(?![=<>])"
)
_ABOUT = re.compile(r"^(?:≈|~|about|approximately|approx\.?|around|roughly|nearly)\s*", re.IGNORECASE)
_ROUNDED = re.compile(r"\s*\(?(?:rounded|to the nearest|correct to|approx)[^()]*\)?$", re.IGNORECASE)
_MONEY = re.compile(r"^([+-]?)\s*(US\$|[$€£¥₹])\s*")
_GROUPED = r"\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?:(?: |\\,)\d{3})+(?!\d)"
_WHOLE = rf"(?:{_GROUPED}|\d+)"
_DECIMAL = re.compile(
    rf"(?P<european>\d{{1,3}}(?:\.\d{{3}})+,\d+|\d{{1,3}}(?:\.\d{{3}}){{2,}}|\d+,\d+(?![\d,])(?<!,\d{{3}}))"
    rf"|(?P<whole>{_WHOLE})?(?:\.(?!\.)(?P<part>\d*))?"
    r"(?P<repeat>\\overline\{\d+\}|\\bar\{\d+\}|\\dot\{\d+\}|\(\d+\)|(?<=\d)\.\.\.)?"
)
_POWER = re.compile(
    r"\s*(?:(?:\\times|\\cdot|[×*·]|x)\s*10\s*(?:\^|\*\*)\s*\{?\s*([+-]?\d{1,3})\s*\}?|[eE]([+-]?\d{1,3})(?![\d.]))"
)
_FRACTION = re.compile(rf"(?:(?P<mixed>\d+) )?(?P<over>{_WHOLE})\s*[/:]\s*(?P<under>{_WHOLE})(?![\d.]*[:/])")
_LATEX_FRACTION = re.compile(r"\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_BASE = re.compile(r"([0-9A-F]+)_\{?(\d{1,2})\}?", re.IGNORECASE)
_SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "dozens": 12,
    "hundreds": 100, "thousands": 1000, "millions": 10**6, "billions": 10**9, "lakh": 10**5, "crore": 10**7,
    "万": 10**4, "亿": 10**8,
}  # fmt: skip
_SCALE = re.compile(rf"\s*({'|'.join(_SCALES)})(?![a-z])", re.IGNORECASE)
_SMALL = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
NUMBER_WORDS = re.compile(
    rf"\b(?:{'|'.join(_SMALL)})(?:[- ](?:and |{'|'.join([*_SMALL, *_SCALES])}))*\b", re.IGNORECASE
)
"""A number in words, inside a sentence."""
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}
_OPERATIONS = (
    (re.compile(r"\bplus\b"), "+"), (re.compile(r"\bminus\b|\bnegative\b"), "-"), (re.compile(r"\btimes\b"), "*"),
    (re.compile(r"\bdivided by\b|\bover\b"), "/"), (re.compile(r"(?<=\d) squared\b"), "^2"),
    (re.compile(r"(?<=\d) cubed\b"), "^3"),
)  # fmt: skip
_MATHEMATICS = re.compile(r"[\\^_=+*/<>√π|{}()\[\]≤≥≈±∞∪∈!:\d-]")
_NO_UNIT = frozenset(
    {"not", "no", "or", "and", "nor", "but", "minus", "plus", "times", "versus", "vs", "to", "than", "of", "if", "is"}
    | {"squared", "cubed"}
)
FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "pi", "ln"})
"""Names of mathematics that are neither units nor words."""


@dataclass(frozen=True)
class Number:
    """An exact value as it is written: ``decimals`` and significant ``digits`` (None and 0 of a fraction)."""

    value: Fraction
    decimals: int | None = None
    digits: int = 0
    percent: bool = False
    unit: str | None = None
    """In pint's spelling; None without one."""
    word: str | None = None
    """What stands where a unit would, and is none that we know."""
    name: str | None = None
    """The left side of ``x = 5``."""
    base: int = 10
    rounded: bool = False
    """Said to be rounded."""


@functools.lru_cache(CACHED)
def parse_number(text: str) -> Number | None:
    """The number that ``text`` is, with its unit; None if it is none, or no rational one.

    Reads ``1,234``, ``1 1/2``, ``\\frac{1}{2}``, ``1:2``, ``50%``, ``30°``, ``$5``, ``36 m^2``, ``1.2e3``,
    ``3\\times10^{4}``, ``0.\\overline{3}``, ``twenty-one``, ``5 million``, ``x = 5``, ``1010_2``, ``5 ft 6 in``
    and arithmetic of such.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    text = plain(text)
    about = _ABOUT.match(text) or _ROUNDED.search(text)
    text = _ROUNDED.sub("", _ABOUT.sub("", text)).strip()
    name = _NAME.match(text)
    text = text[name.end() :] if name else text
    about = about or _ABOUT.match(text)
    text = _ABOUT.sub("", text)
    money = _MONEY.match(text)
    text = money[1] + text[money.end() :] if money else text
    number = _number(text)
    if number is None or (money and (number.unit or number.word)):
        return None
    unit = read_unit(money[2]) if money else number.unit
    return replace(number, unit=unit, name=name[1] if name else None, rounded=bool(about) or number.rounded)


def _number(text: str) -> Number | None:
    if match := _BASE.fullmatch(text):
        return _in_base(match[1], int(match[2]))
    sign, rest = (-1, text[1:].lstrip()) if text[:1] == "-" else (1, text.removeprefix("+").lstrip())
    for read in (_compound, _literal, _in_words, _arithmetic):
        number = read(rest)
        if number is not None and (sign == 1 or read is not _arithmetic):
            return replace(number, value=sign * number.value)
    return _arithmetic(text)


def _in_base(digits: str, base: int) -> Number | None:
    try:
        return Number(Fraction(int(digits, base)), base=base)
    except ValueError:
        return None


def _literal(text: str) -> Number | None:
    """Digits, and what stands behind them."""
    text = _plain_fractions(text)
    if match := _FRACTION.match(text):
        under = _integer(match["under"])
        if not under:
            return None
        value = Fraction(_integer(match["over"]), under) + _integer(match["mixed"])
        return _with_tail(Number(value), text[match.end() :])
    match = _DECIMAL.match(text)
    if match is None or not (match["european"] or match["whole"] or match["part"]):
        return None
    number, end = _decimal(match), match.end()
    if number.decimals is not None and (power := _POWER.match(text, end)):
        exponent = int(power[1] or power[2])
        decimals = max(0, number.decimals - exponent)
        number, end = replace(number, value=number.value * Fraction(10) ** exponent, decimals=decimals), power.end()
    return _with_tail(number, text[end:])


def _plain_fractions(text: str) -> str:
    return _LATEX_FRACTION.sub(lambda match: f" {match[1] or match[2]}/{match[3] or match[4]}", text).strip()


def _decimal(match: re.Match[str]) -> Number:
    whole, part = match["whole"] or "0", match["part"] or ""
    if written := match["european"]:
        whole, _, part = written.replace(".", "").partition(",")
    whole = re.sub(r"\D", "", whole)
    value = Fraction(int(whole + part), 10 ** len(part))
    digits = len((whole + part).lstrip("0"))
    repeat = re.sub(r"\D", "", match["repeat"] or "")
    if repeat:
        return Number(value + Fraction(int(repeat), (10 ** len(repeat) - 1) * 10 ** len(part)))
    if match["repeat"] and len(part) >= 2 and len(set(part[-2:])) == 1:  # 0.333... goes on with its last digit
        return Number(value + Fraction(int(part[-1]), 9 * 10 ** len(part)))
    return Number(value, len(part), digits, rounded=bool(match["repeat"]))


def _integer(digits: str | None) -> int:
    return int(re.sub(r"\D", "", digits or "0") or "0")


def _in_words(text: str) -> Number | None:
    """``twenty-one``, ``one hundred and five cm``, ``three quarters``, ``a half``."""
    words = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text.lower()).split()
    total = current = used = 0
    for place, word in enumerate(words):
        if word in _SMALL:
            current += _SMALL[word]
        elif word in _SCALES and place:
            current = max(1, current) * _SCALES[word]
            if _SCALES[word] > 100:
                total, current = total + current, 0
        elif not (word == "and" and place and words[place - 1] in _SCALES and words[place + 1 : place + 2]):
            break
        used = place + 1
    if words[:1] in (["a"], ["an"]) and words[1:2] and words[1] in _PARTS:
        total, used = 1, 1
    if words[:1] == ["half"] and len(words) == 1:
        return Number(Fraction(1, 2))
    if not used or words[used - 1] == "and":
        return None
    value, rest = Fraction(total + current), words[used:]
    part = rest[0].removesuffix("s") if rest and rest[0] != "halves" else "half" if rest else ""
    if part in _PARTS:
        return _with_tail(Number(value / _PARTS[part]), " ".join(rest[1:]))
    return _with_tail(Number(value, 0, len(str(value))), " ".join(rest))


def _compound(text: str) -> Number | None:
    """``5 ft 6 in``, ``1 h 30 min``, ``5'6"``: parts of one dimension, added up in the first unit."""
    text = re.sub(r"(\d+)\s*'\s*(\d+)\s*(?:\"|'')", r"\1 ft \2 in", text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+\.?|[一-鿿]+)(?:\s*,?\s*(?:and\s+)?|$)", text)
    written = re.sub(r"[\s,.]|\band\b", "", text)
    if len(parts) < 2 or "".join(a + b for a, b in parts).replace(".", "") != written:
        return None
    units = [read_unit(unit) for _, unit in parts]
    values = [
        convert(Fraction(value), unit, units[0])
        for (value, _), unit in zip(parts, units, strict=True)
        if unit and units[0]
    ]
    if len(values) < len(parts) or None in values or len(set(units)) < len(units):
        return None
    return Number(sum((value for value in values if value is not None), Fraction(0)), unit=units[0])


def _arithmetic(text: str) -> Number | None:
    r"""``2^{10}``, ``5!``, ``\sqrt{16}`` or ``5 plus two``, and a unit behind it."""
    words = text.lower()
    if re.search(r"\b(?:plus|minus|times|divided by|over|squared|cubed|negative)\b", words):
        words = re.sub(r"\b[a-z]+\b", lambda match: str(_SMALL.get(match[0], match[0])), words)
        for pattern, sign in _OPERATIONS:
            words = pattern.sub(sign, words)
        text = words
    for body, tail in _parted(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)):
        try:
            return _with_tail(Number(evaluate(body)), tail)
        except NotExactError:
            continue
    return None


def _parted(text: str) -> list[tuple[str, str]]:
    """The whole, and the whole without the unit at its end."""
    return [(text, ""), *([split] if (split := split_unit(text))[1] else [])]


def split_unit(text: str) -> tuple[str, str]:
    r"""``(expression, unit)`` of ``25π cm^{2}``: what stands behind the last space or digit, if it is a unit.

    ``text`` must be plain. The unit is empty if there is none.
    """
    for match in re.finditer(r"(?<=[\d})π!°])\s*(?=[A-Za-z$€£°一-鿿%])|\s+(?=[A-Za-z$€£°一-鿿])", text):
        head, tail = text[: match.start()].strip(), text[match.end() :].strip()
        if head and (tail == "%" or (read_unit(tail) and (match[0] or tail[0] == "°" or len(tail) > 1))):
            return head, tail
    return text, ""


def _with_tail(number: Number, tail: str) -> Number | None:
    """The number with what follows it; None if that is more mathematics, so the whole is no number."""
    scaled = _SCALE.match(tail)
    while scaled:
        number = replace(
            number, value=number.value * _SCALES[scaled[1].lower()], decimals=None if number.decimals is None else 0
        )
        tail = tail[scaled.end() :]
        scaled = _SCALE.match(tail)
    glued, tail = tail[:1] not in ("", " "), tail.strip()
    if not tail:
        return number
    if re.fullmatch(r"%|percent|per cent", tail, re.IGNORECASE):
        return replace(number, percent=True)
    if glued and re.fullmatch(r"[A-Za-z]", tail) and tail not in "mgsLVWN":
        return None  # 2h and 3x are products
    unit = read_unit(tail)
    if unit is not None:
        return replace(number, unit=unit)
    words = tail.lower().split()
    ordinary = all(re.fullmatch(r"[^\W\d_]{3,}|[一-鿿]+", word) and word not in FUNCTIONS for word in words)
    if _MATHEMATICS.search(tail) or not ordinary or len(words) > 3 or _NO_UNIT.intersection(words):
        return None
    return replace(number, word=" ".join(word.removesuffix("s") for word in words))


# ---------------------------------------------------------------------------------------------- comparison


def same_number(answer: Number, gold: Number, places: int | None = None) -> Equality:
    """Whether ``answer`` is ``gold``.

    Units that differ are converted; a missing one is not a difference, but a word that is no known unit is
    undetermined. ``50%`` is 0.5, and is 50 where the gold is a bare number. ``places``: both are first rounded to so
    many decimals, the rule of the gold's own table.
    """
    if answer.base != gold.base or (answer.name and gold.name and answer.name != gold.name):
        return "incorrect"
    converted = _converted(answer, gold)
    if converted is None:
        return "incorrect"
    equal = any(_same_value(replace(answer, value=value), gold, places) for value in converted)
    if equal and ((answer.word and answer.word != gold.word) or (answer.unit and gold.word)):
        return "undetermined"
    return "correct" if equal else "incorrect"


def _converted(answer: Number, gold: Number) -> list[Fraction] | None:
    """What the answer may be in the gold's unit; None where the two measure different things."""
    if answer.percent != gold.percent:
        if answer.unit or gold.unit:
            return None
        return _from_percent(answer, gold)
    if answer.unit and gold.unit:
        value = convert(answer.value, answer.unit, gold.unit)
        return None if value is None else [value]
    return [answer.value]


def _from_percent(answer: Number, gold: Number) -> list[Fraction]:
    """``50%`` is one half; it is 50 as well where one side only left the sign away, which no share of one could."""
    if answer.percent:
        return [answer.value / 100, *([answer.value] if abs(gold.value) > 1 and not gold.word else [])]
    return [answer.value * 100, *([answer.value] if abs(gold.value) >= 1 and not answer.word else [])]


def _same_value(answer: Number, gold: Number, places: int | None) -> bool:
    if answer.value == gold.value:
        return True
    if places is not None and answer.decimals is not None:
        return round_half_up(answer.value, places) == round_half_up(gold.value, places)
    if gold.decimals is not None and (gold.rounded or (_endless(answer) and gold.digits >= EXACT_DIGITS)):
        return round_half_up(answer.value, gold.decimals) == gold.value
    if _endless(gold) and answer.decimals is not None and answer.digits >= EXACT_DIGITS:
        return round_half_up(gold.value, answer.decimals) == answer.value
    return False


def _endless(number: Number) -> bool:
    """An exact value whose decimals have no end: its denominator has other factors than 2 and 5."""
    rest = number.value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return number.decimals is None and rest > 1


def round_half_up(value: Fraction, decimals: int) -> Fraction:
    """Half away from zero, as people round."""
    scaled = abs(value) * 10**decimals
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return Fraction(whole if value >= 0 else -whole, 10**decimals)
