r"""Answers of several parts: lists with and without an order, points, ratios, matrices, intervals and inequalities."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from drift.verdicts.numbers import parse_number
from drift.verdicts.plain import CACHED, plain

_THOUSANDS = re.compile(r"[+-]?[$€£]?\s?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_OPENING, _CLOSING = "([{", ")]}"
_AND = re.compile(r",?\s+(?:and|or|∨|∧|&)\s+|\s*;\s*|、|，")
_NAME = re.compile(r"^([A-Za-z](?:_\{?\w+\}?)?)\s*(?:=|∈)\s*(?!=)")
_MATRIX = re.compile(r"\\begin\{([bpv]?)matrix\}(.+)\\end\{\1matrix\}", re.DOTALL)
_BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
_INFINITE = re.compile(r"([+-]?)\s*∞")
_SIDES = re.compile(r"\s*(<|>|≤|≥)\s*")
_VARIABLE = re.compile(r"\\?[A-Za-z](?:_\{?\w+\}?)?|\\(?:theta|alpha|beta|lambda|mu)")
_RATIO_PART = re.compile(r"[^:=<>,;()]{1,40}")

Shape = Literal["bare", "(", "[", "{", "named", "ratio", "matrix"]


@dataclass(frozen=True)
class Parts:
    """Parts of an answer; ``ordered`` is whether their order says something."""

    items: tuple[str, ...]
    shape: Shape
    ordered: bool
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``, texts of expressions or `-∞` and `∞`; and whether each end belongs to it."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool


@functools.lru_cache(CACHED)
def read_parts(text: str) -> Parts | None:
    r"""The parts of ``text``; None if it is one thing.

    Braces and "or" have no order, brackets have one. A bare list of two has none (two solutions, in any order); from
    three on it has, since ``3, 1, 2`` may be a ranking. ``±2`` is 2 and −2.
    """
    if matrix := _MATRIX.search(text):
        return _matrix(matrix[2])
    text = plain(text)
    name = _NAME.match(text)
    body = text[name.end() :] if name else text
    if "∪" in body and (union := _union(body)):
        return union
    for opening, closing in _BRACKETS.items():
        if (
            body.startswith(opening)
            and body.endswith(closing)
            and (inner := _inside(body, opening, closing)) is not None
        ):
            items = _expanded(_split(inner))
            sort = "{" if "{" in opening else "(" if opening in ("(", "\\langle") else opening
            if len(items) > 1 or (sort == "{" and inner.strip()) or (sort == "[" and inner.strip()):
                return Parts(items, _shape(sort), sort != "{")
            return None
    return _bare(text)


def _shape(sort: str) -> Shape:
    return "{" if sort == "{" else "(" if sort == "(" else "["


def _inside(body: str, opening: str, closing: str) -> str | None:
    """What stands between the brackets, if they belong to each other."""
    depth, inner = 0, body[len(opening) : len(body) - len(closing)]
    for sign in inner:
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if depth < 0:
            return None
    return inner.removesuffix("\\") if opening == "\\{" else inner


def _bare(text: str) -> Parts | None:
    items = _split(text)
    names = [match[1] if (match := _NAME.match(item)) else "" for item in items]
    if len(items) > 1 and all(names) and len(set(names)) == len(names):
        return Parts(tuple(_NAME.sub("", item) for item in items), "named", False, tuple(names))
    if len(set(filter(None, names))) <= 1:
        items = [_NAME.sub("", item) for item in items]
    expanded = _expanded(items)
    if len(expanded) < 2:
        return None
    solutions = any(names) or "±" in text or " or " in text
    return Parts(expanded, "bare", len(expanded) > 2 and not solutions)


def _union(body: str) -> Parts | None:
    sets = [read_parts(part) for part in body.split("∪")]
    if any(one is None or one.shape != "{" for one in sets):
        return None
    return Parts(tuple(dict.fromkeys(item for one in sets if one for item in one.items)), "{", False)


def _matrix(body: str) -> Parts:
    rows = [row.split("&") for row in re.split(r"\\\\", body) if row.strip()]
    return Parts(tuple(cell.strip() for row in rows for cell in row), "matrix", True, (str(len(rows)),))


def _split(text: str) -> list[str]:
    """At commas, semicolons, "and" and "or" that no bracket holds; not at the commas of thousands."""
    pieces, depth, start, commas = [], 0, 0, []
    for place, sign in enumerate(text):
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if sign == "," and depth <= 0:
            commas.append(place)
    spaced = [place for place in commas if text[place + 1 : place + 2] == " "]
    if not spaced and _THOUSANDS.fullmatch(text):
        commas = []
    for place in spaced or commas:
        pieces.append(text[start:place])
        start = place + 1
    pieces.append(text[start:])
    found = [part for piece in pieces for part in _AND.split(" " + piece + " " if piece.startswith("and ") else piece)]
    return [re.sub(r"^(?:and|or)\s+", "", part.strip()) for part in found if part.strip()]


def _expanded(items: list[str]) -> tuple[str, ...]:
    """``±2`` as two parts."""
    return tuple(item.replace("±", sign).removeprefix("+") for item in items for sign in ("+-" if "±" in item else "+"))


def read_ratio(text: str) -> tuple[str, ...] | None:
    """The terms of ``1:2:3`` or ``1 to 2``; None for anything else."""
    terms = [term.strip() for term in re.split(r"\s*(?::|\\colon|\bto\b|∶|：)\s*", plain(text))]
    return tuple(terms) if len(terms) > 1 and all(_RATIO_PART.fullmatch(term) for term in terms) else None


def is_decimal_comma(text: str) -> bool:
    """Whether ``text`` may be two numbers or one: ``1,5``."""
    return re.fullmatch(r"[+-]?\d+,\d+", plain(text)) is not None and not _THOUSANDS.fullmatch(plain(text))


# ----------------------------------------------------------------------------------------- intervals


@functools.lru_cache(CACHED)
def read_intervals(text: str) -> tuple[Interval, ...] | None:
    r"""The pieces of ``(1,2]``, ``1<x\le 2``, ``x \ge 0`` or a union of such; None for anything else."""
    body = _NAME.sub("", plain(text))
    body = re.sub(r"^\\?[A-Za-z]\s*∈\s*", "", body)
    pieces = [_piece(piece.strip()) for piece in re.split(r"∪|\s+or\s+|\bor\b", body)]
    return tuple(piece for piece in pieces if piece) if all(pieces) else None


def _piece(text: str) -> Interval | None:
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and (inner := _inside(text, text[0], text[-1])) is not None:
        ends = _split(inner)
        return Interval(ends[0], text[0] == "[", ends[1], text[-1] == "]") if len(ends) == 2 else None
    return _inequality(text)


def _inequality(text: str) -> Interval | None:
    parts = _SIDES.split(_SIDES.sub(r" \1 ", text).replace("  ", " "))
    parts = [part.strip() for part in parts]
    if len(parts) == 5 and _VARIABLE.fullmatch(parts[2]) and {parts[1], parts[3]} <= {"<", "≤"}:
        return Interval(parts[0], parts[1] == "≤", parts[4], parts[3] == "≤")
    if len(parts) == 5 and _VARIABLE.fullmatch(parts[2]) and {parts[1], parts[3]} <= {">", "≥"}:
        return Interval(parts[4], parts[3] == "≥", parts[0], parts[1] == "≥")
    if len(parts) != 3:
        return None
    left, sign, right = parts
    if _VARIABLE.fullmatch(right) and not _VARIABLE.fullmatch(left):
        left, sign, right = right, {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}[sign], left
    if not _VARIABLE.fullmatch(left):
        return None
    if sign in ">≥":
        return Interval(right, sign == "≥", "∞", False)
    return Interval("-∞", False, right, sign == "≤")


def infinite(end: str) -> str | None:
    """`-` or `+` of an endless side; None for a number."""
    match = _INFINITE.fullmatch(end)
    return (match[1] or "+") if match else None


def says_interval(text: str) -> bool:
    """Whether ``text`` can be nothing but an interval: an inequality, a union, a half-open or an endless one."""
    pieces = read_intervals(text)
    if not pieces:
        return False
    body = plain(text)
    mixed = any(piece.low_closed != piece.high_closed for piece in pieces)
    return mixed or "∞" in body or "∪" in body or _SIDES.search(body) is not None


def is_number_range(text: str) -> bool:
    """``3-4``, which is a range or a score and no subtraction."""
    return re.fullmatch(r"\d+\s?-\s?\d+", plain(text)) is not None and parse_number(text) is not None
