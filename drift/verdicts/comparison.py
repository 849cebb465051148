"""The comparison of one answer with a gold answer, by the kind of the gold: see `verdict` for kinds and statuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Literal, get_args

from drift.verdicts.exact import TooLargeError, evaluate
from drift.verdicts.expressions import Decision, Pair, latex
from drift.verdicts.letters import is_named_by_letters, option_of
from drift.verdicts.lists import (
    Interval,
    Parts,
    infinite,
    is_decimal_comma,
    is_number_range,
    read_intervals,
    read_parts,
    read_ratio,
    says_interval,
)
from drift.verdicts.numbers import EXACT_DIGITS, FUNCTIONS, Number, parse_number, same_number, split_unit
from drift.verdicts.plain import bare, plain, squeezed
from drift.verdicts.times import read_dates, read_time, same_date, same_time
from drift.verdicts.units import convert, read_unit

Kind = Literal["choice", "number", "time", "ratio", "list", "interval", "text", "expression"]
Status = Literal["correct", "incorrect", "unparsed", "undetermined"]
KINDS: tuple[str, ...] = get_args(Kind)

IRRATIONAL_DIGITS = 6
"""Digits from which on a decimal may stand for an irrational gold: 4.12311 for √17, but not 6.28 for 2π."""

MAX_PARTS = 40

_STATED = re.compile(r"^(?:(?:the|my) )?(?:(?:final|correct) )?answer(?: is|:)+ ?|^=\s*", re.IGNORECASE)
_NAME = re.compile(r"^((?:[fgh]\()?\\?[A-Za-z](?:_\{?\w+\}?)?\)?)\s*=\s*(?!=)")
_FLIPPED = re.compile(r"^([^=]*[^=\sA-Za-z][^=]*?|\d+)\s*=\s*([A-Za-z])$")
_NOTHING = frozenset(
    {"∅", "none", "no solution", "no solutions", "empty set", "no real solution", "no real solutions", "{}", "\\{\\}"}
)
_SIGNS = re.compile(r"[\\^_=+*/<>√π|{}()\[\]≤≥≈±∞∪∈]|^-?\d+(?:\.\d+)?[A-Za-z]{1,2}$")
_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{3,}")

Said = tuple[Status | None, str]
"""A status, None while math-verify has still to be asked, and the method."""


def answer_kind(gold: str, choices: Sequence[str] | None = None) -> Kind:
    """Kind of a gold answer, by its form, the strictest first."""
    text = plain(gold)
    if choices or is_named_by_letters(gold):
        return "choice"
    for kind, reads in _READS.items():
        if reads(gold):
            return kind
    return "expression" if _looks_like_expression(text) else "text"


_READS: dict[Kind, Callable[[str], bool]] = {
    "time": lambda gold: read_time(gold) is not None or bool(read_dates(gold)),
    "ratio": lambda gold: _numeric_ratio(gold) is not None,
    "number": lambda gold: not is_decimal_comma(gold) and not is_number_range(gold) and parse_number(gold) is not None,
    "interval": says_interval,
    "list": lambda gold: _plausible_parts(gold) is not None,
}


def _numeric_ratio(text: str) -> tuple[str, ...] | None:
    terms = read_ratio(text)
    return terms if terms and all(re.search(r"\d", term) for term in terms[:2]) else None


def _plausible_parts(text: str) -> Parts | None:
    """Parts that are not the clauses of a sentence."""
    parts = read_parts(text)
    if parts is None or len(parts.items) > MAX_PARTS:
        return None
    return parts if all(len(_WORD.findall(item)) <= 3 or _looks_like_expression(item) for item in parts.items) else None


class Comparison:
    """Comparisons that look up what math-verify decided in ``decided``, and note in ``wanted`` what it has not yet."""

    def __init__(self, decided: Mapping[Pair, Decision], places: int | None = None) -> None:
        self.decided, self.places = decided, places
        self.wanted: set[Pair] = set()

    def of(self, gold: str, answer: str, kind: Kind | None, choices: Sequence[str]) -> tuple[Status, str]:
        """Status and method; undetermined while something is wanted."""
        answer = _STATED.sub("", bare(plain(answer))).strip() if "matrix" not in answer else answer
        status, method = self._by_kind(gold, answer, _usable(kind, gold, choices), choices)
        return (status or "undetermined", method)

    def _by_kind(self, gold: str, answer: str, kind: Kind, choices: Sequence[str] = ()) -> Said:
        if kind == "choice":
            return self._choice(gold, answer, choices)
        if _nothing(gold) or _nothing(answer):
            return _status(_nothing(gold) and _nothing(answer)), "text"
        compare = {
            "number": self._number, "time": self._time, "ratio": self._ratio, "list": self._list,
            "interval": self._interval, "text": self._text, "expression": self._expression,
        }[kind]  # fmt: skip
        return compare(gold, answer)

    def same(self, gold: str, answer: str) -> Said:
        """Compared by the gold's own kind: parts of lists and ends of intervals."""
        return self._by_kind(gold, answer, _without_letters(gold))

    # ------------------------------------------------------------------------------ kind by kind

    def _choice(self, gold: str, answer: str, choices: Sequence[str]) -> Said:
        equal = lambda option, text: self.same(option, text)[0] == "correct"  # noqa: E731
        right, given = option_of(gold, choices, equal), option_of(answer, choices, equal)
        if right is None:
            return ("correct" if squeezed(gold) == squeezed(answer) else "incorrect"), "choice"
        return _status(right == given), "choice"

    def _number(self, gold: str, answer: str) -> Said:
        right, given = parse_number(gold), parse_number(answer)
        if right is None:
            return self._expression(gold, answer)
        if given is not None and read_time(answer) is None:
            units = bool(right.unit or given.unit or given.word)
            return same_number(given, right, self.places), "unit" if units else "number"
        if read_time(answer) or says_interval(answer) or _several(answer):
            return "incorrect", "number"
        if not _looks_like_expression(plain(answer)):
            return "incorrect", "number"
        return self._expression(gold, answer)

    def _time(self, gold: str, answer: str) -> Said:
        right, given = read_time(gold), read_time(answer)
        if right and given:
            same = same_time(given, right)
        else:
            same = same_date(read_dates(answer), read_dates(gold)) if read_dates(answer) and read_dates(gold) else False
        return ("undetermined" if same is None else _status(same)), "time"

    def _ratio(self, gold: str, answer: str) -> Said:
        right, given = read_ratio(gold) or (), read_ratio(answer) or ()
        whole, part = parse_number(gold), parse_number(answer)
        if len(right) == 2 and whole and part and read_time(answer) is None:
            return same_number(part, whole), "ratio"
        if len(right) != len(given):
            return "incorrect", "ratio"
        values = [[parse_number(term) for term in terms] for terms in (right, given)]
        if all(all(row) for row in values):
            return _status(_proportional(*values)), "ratio"
        return self._each(right, given, "ratio")

    def _list(self, gold: str, answer: str) -> Said:
        if squeezed(gold) == squeezed(answer):
            return "correct", "list"
        right, given = read_parts(gold), read_parts(answer)
        if right is None:
            return self._expression(gold, answer)
        if is_decimal_comma(gold) and not _several(answer):
            value = parse_number(answer)
            return ("undetermined" if value and value == parse_number(gold) else "incorrect"), "list"
        if given is None:
            between = right.shape in ("(", "[") and says_interval(answer) and read_intervals(gold)
            return self._interval(gold, answer) if between else ("incorrect", "list")
        return self._parts(right, given)

    def _parts(self, right: Parts, given: Parts) -> Said:
        if {right.shape, given.shape} & {"matrix"} and (right.shape, right.names) != (given.shape, given.names):
            return "incorrect", "list"
        if len(right.items) != len(given.items) or len(given.items) > MAX_PARTS:
            return "incorrect", "list"
        if right.shape == given.shape == "named":
            return self._named(right, given)
        if not _compatible(right, given):
            return "incorrect", "list"
        if right.ordered or right.shape == "named" or given.shape == "named":
            said = self._each(right.items, given.items, "list")
            return said if said[0] != "incorrect" or right.shape != "bare" else self._reordered(right, given)
        return self._any_order(right.items, given.items), "list"

    def _reordered(self, right: Parts, given: Parts) -> Said:
        """A bare list in another order: nobody can say whether its order was asked for."""
        status = self._any_order(right.items, given.items)
        return ("undetermined" if status == "correct" else status), "list"

    def _named(self, right: Parts, given: Parts) -> Said:
        if set(right.names) != set(given.names):
            return "incorrect", "list"
        by_name = dict(zip(given.names, given.items, strict=True))
        return self._each(right.items, tuple(by_name[name] for name in right.names), "list")

    def _each(self, right: Sequence[str], given: Sequence[str], method: str) -> Said:
        said = [self.same(one, other)[0] for one, other in zip(right, given, strict=True)]
        return _worst(said), method

    def _any_order(self, right: Sequence[str], given: Sequence[str]) -> Status | None:
        rest = list(given)
        said: list[Status | None] = []
        for one in right:
            found = [self.same(one, other)[0] for other in rest]
            said.append(_best(found))
            if said[-1] == "correct":
                rest.pop(found.index("correct"))
        return _worst(said)

    def _interval(self, gold: str, answer: str) -> Said:
        if squeezed(gold) == squeezed(answer):
            return "correct", "interval"
        right, given = read_intervals(gold), read_intervals(answer)
        if right is None or given is None:
            return (
                self._expression(gold, answer) if _looks_like_expression(plain(answer)) else ("incorrect", "interval")
            )
        if len(right) != len(given):
            return "incorrect", "interval"
        rest = list(given)
        said: list[Status | None] = []
        for piece in right:
            found = [self._same_interval(piece, other) for other in rest]
            said.append(_best(found))
            if said[-1] == "correct":
                rest.pop(found.index("correct"))
        return _worst(said), "interval"

    def _same_interval(self, gold: Interval, answer: Interval) -> Status | None:
        ends = [(gold.low, answer.low, gold.low_closed, answer.low_closed)]
        ends.append((gold.high, answer.high, gold.high_closed, answer.high_closed))
        said: list[Status | None] = []
        for right, given, *closed in ends:
            if infinite(right) or infinite(given):
                said.append(_status(infinite(right) == infinite(given)))
            else:
                said.append("incorrect" if closed[0] != closed[1] else self.same(right, given)[0])
        return _worst(said)

    def _text(self, gold: str, answer: str) -> Said:
        stricter = any(parse_number(text) or read_time(text) for text in (gold, answer))
        same = squeezed(gold).casefold() == squeezed(answer).casefold()
        return _status(same or (not stricter and _words(gold) == _words(answer) != "")), "text"

    def _expression(self, gold: str, answer: str) -> Said:
        if squeezed(gold) == squeezed(answer):
            return "correct", "expression"
        if not _looks_like_expression(plain(answer)) and parse_number(answer) is None:
            return "incorrect", "expression"
        if _several(answer) and not _several(gold):
            return "incorrect", "expression"
        bodies = _bodies(plain(gold), plain(answer))
        if bodies is None:
            return "incorrect", "expression"
        pair = _pair(*bodies)
        if isinstance(pair, str):
            return pair, "expression"
        if any(map(_too_large, bodies)):
            return "undetermined", "too large"
        if pair not in self.decided:
            self.wanted.add(pair)
            return None, "time limit"
        decision = self.decided[pair]
        return decision, "time limit" if decision == "undetermined" else "math-verify"


def _usable(kind: Kind | None, gold: str, choices: Sequence[str]) -> Kind:
    """The kind that was asked for, if the gold can be read so; a time is no number."""
    own = answer_kind(gold, choices)
    if kind is None or kind == own or (own == "choice" and choices):
        return own
    if kind in ("text", "expression", "choice"):
        return kind
    return kind if _READS[kind](gold) and not (kind == "number" and own in ("time", "ratio")) else own


def _without_letters(gold: str) -> Kind:
    kind = answer_kind(gold)
    return "text" if kind == "choice" else kind


def _status(correct: bool) -> Status:
    return "correct" if correct else "incorrect"


def _worst(said: Sequence[Status | None]) -> Status | None:
    """Of parts that must all be right; None while one is still to be asked."""
    order: tuple[Status | None, ...] = ("incorrect", None, "undetermined")
    return next((status for status in order if status in said), "correct")


def _best(said: Sequence[Status | None]) -> Status | None:
    """Of parts of which one must be right."""
    order: tuple[Status | None, ...] = ("correct", None, "undetermined")
    return next((status for status in order if status in said), "incorrect")


def _nothing(text: str) -> bool:
    return re.sub(r"^(?:there (?:is|are)|the|x ∈)\s+|\s+exists?$", "", plain(text).casefold()) in _NOTHING


def _several(text: str) -> bool:
    """Whether ``text`` is a list, and no number with a decimal comma."""
    return not is_decimal_comma(text) and _plausible_parts(text) is not None


def _compatible(right: Parts, given: Parts) -> bool:
    """Whether a list written as ``given`` may stand for one written as ``right``: (1,2) is a point and 1, 2 is none."""
    if right.shape == given.shape:
        return True
    pair = (right.shape, given.shape)
    if "named" in pair:
        names = right.names or given.names
        return list(names) == sorted(names) and bool({"(", "bare"} & set(pair))
    if pair == ("bare", "["):
        return len(right.items) > 2
    return pair in {("{", "bare"), ("bare", "{")} or (pair == ("[", "bare") and len(right.items) > 2)


def _proportional(right: list[Number | None], given: list[Number | None]) -> bool:
    one, other = ([number.value for number in row if number] for row in (right, given))
    return all(one[0] * second == other[0] * first for first, second in zip(one, other, strict=True)) and other[0] != 0


def _bodies(gold: str, answer: str) -> tuple[str, str] | None:
    """Both without the name before ``=`` and the unit behind, the answer in the gold's unit; None if those differ."""
    gold, answer = _FLIPPED.sub(r"\2 = \1", gold), _FLIPPED.sub(r"\2 = \1", answer)
    names = [_NAME.match(text) for text in (gold, answer)]
    if all(names) and squeezed(names[0][1]) != squeezed(names[1][1]):  # type: ignore[index]
        return None
    gold, answer = (_NAME.sub("", text) if "=" not in _NAME.sub("", text) else text for text in (gold, answer))
    (gold, unit), (answer, given) = split_unit(gold), split_unit(answer)
    if "%" in (unit, given):
        return None if unit != given else (gold, answer)
    factor = _factor(unit, given, gold, answer)
    if factor is None:
        return None
    return gold, answer if factor == "1" else f"({answer})*({factor})"


def _factor(unit: str, given: str, gold: str, answer: str) -> str | None:
    """What the answer is multiplied with; None if it measures something else."""
    right, of_answer = read_unit(unit) if unit else None, read_unit(given) if given else None
    if right == "degree" and not given and "π" in answer and "π" not in gold:
        return r"\frac{180}{π}"
    if of_answer == "degree" and not unit and "π" in gold:
        return r"\frac{π}{180}"
    if not right or not of_answer:
        return "1"
    value = convert(Fraction(1), of_answer, right)
    return (
        None
        if value is None
        else str(value)
        if value.denominator == 1
        else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    )


def _pair(gold: str, answer: str) -> Pair | Status:
    """What math-verify is asked: with a tolerance where one side is a decimal and the other has no end."""
    right, given = parse_number(gold), parse_number(answer)
    if right and given:
        return same_number(given, right)
    within = None
    if right and right.decimals and (right.rounded or right.digits >= EXACT_DIGITS):
        within = _half_place(right.decimals)
    elif given and given.decimals and given.digits >= IRRATIONAL_DIGITS:
        within = _half_place(given.decimals)
    return Pair(latex(gold), latex(answer), within)


def _half_place(decimals: int) -> str:
    return f"5e-{decimals + 1}"


def _too_large(text: str) -> bool:
    try:
        evaluate(text)
    except TooLargeError:
        return True
    except ValueError:
        pass
    return False


def _looks_like_expression(text: str) -> bool:
    words = [word for word in _WORD.findall(text) if word.lower() not in FUNCTIONS]
    return bool(_SIGNS.search(text)) and (not words or re.search(r"[\\^=√π≤≥±∞]", text) is not None)


def _words(text: str) -> str:
    """Case, a leading article and the punctuation around words removed; empty for an expression."""
    text = plain(text)
    if _looks_like_expression(text):
        return ""
    text = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", " ", text.casefold())
    text = re.sub(r"\b([^\W\d])\.(?=[^\W\d](?:\b|$))", r"\1", text)
    words = [re.sub(r"^[\"'`“”‘’,;:!?.]+|[\"'`“”‘’,;:!?.]+$", "", word) for word in text.split()]
    return re.sub(r"^(?:the|an|a) (?=\S)", "", " ".join(filter(None, words)))
