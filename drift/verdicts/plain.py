r"""Answers in one plain spelling: NFKC, without LaTeX's wrapping, money's `$` told from that of mathematics."""

from __future__ import annotations

import functools
import re
import unicodedata

from drift.verdicts.extract import MARKER

CACHED = 1 << 14
"""Texts of which each reading is kept: options and golds come again and again."""

MAX_ANSWER_CHARACTERS = 300
"""No gold answer is longer, and a parser's time grows with the length."""

_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|textrm|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_MATH = re.compile(r"(?<!\\)\$\$?(?!\s)([^$]*?[^\s$\\])\$\$?(?!\d)")
_SPACE = re.compile(r"\\(?:[;: ]|quad|qquad)(?![a-zA-Z])|\\,(?!\d{3}(?!\d))|~")
_DROPPED = re.compile(r"\\(?:left|right|displaystyle|limits|bigl|bigr|big)(?![a-zA-Z])|\\[!()\[\]]|\\,")
_SYNONYMS = (
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\circ|º|˚"), "°"),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leq|le)(?![a-zA-Z])|<=|⩽"), "≤"),
    (re.compile(r"\\(?:geqslant|geq|ge)(?![a-zA-Z])|>=|⩾"), "≥"),
    (re.compile(r"\\(?:lt)(?![a-zA-Z])"), "<"),
    (re.compile(r"\\(?:gt)(?![a-zA-Z])"), ">"),
    (re.compile(r"\\(?:infty|infinity)(?![a-zA-Z])"), "∞"),
    (re.compile(r"\\cup(?![a-zA-Z])"), "∪"),
    (re.compile(r"\\in(?![a-zA-Z])"), "∈"),
    (re.compile(r"\\pm(?![a-zA-Z])"), "±"),
    (re.compile(r"\\(?:approx|simeq|sim)(?![a-zA-Z])"), "≈"),
    (re.compile(r"\\(?:emptyset|varnothing)(?![a-zA-Z])"), "∅"),
    (re.compile(r"\\(?:ldots|dots|cdots)(?![a-zA-Z])|…"), "..."),
    (re.compile(r"\\pi(?![a-zA-Z])"), "π"),
    (re.compile(r"\\(?:Omega)(?![a-zA-Z])"), "Ω"),
    (re.compile(r"\\([%#&_€£])"), r"\1"),
)
_EMPHASIS = re.compile(r"(\*\*|__|\*|`)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


@functools.lru_cache(CACHED)
def plain(text: str) -> str:
    """``text`` in NFKC without LaTeX's wrapping, Markdown around it, and a closing period.

    ``$...$``, ``\\text{...}`` and spacing commands go; ``\\$`` and a lone ``$`` stay, as money. Superscripts become
    ``^{2}``, vulgar fractions `` 1/2``, and signs that have several names get one.
    """
    text = _VULGAR.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), _scripts(MARKER.sub("", text)))
    text = unicodedata.normalize("NFKC", text).replace("</s>", "")
    for dash in "−–—":
        text = text.replace(dash, "-")
    text = text.replace("{,}", ",").replace("⁄", "/").replace("\\!", "")
    text = unwrapped(_MATH.sub(r" \1 ", text.strip()))
    text = _DROPPED.sub("", _SPACE.sub(" ", text)).replace("\\$", "$")
    for pattern, sign in _SYNONYMS:
        text = pattern.sub(sign, text)
    return bare(re.sub(r"\s+", " ", text))


def unwrapped(text: str) -> str:
    r"""``text`` without ``\text{...}`` and its kind, from the inside out."""
    for _ in range(4):
        text, found = _TEXT.subn(r" \1 ", text)
        if not found:
            break
    return text


def bare(text: str) -> str:
    """``text`` without emphasis or quotes around all of it, and without a closing period."""
    text = text.strip()
    for _ in range(4):
        before = text
        text = re.sub(r"(?<!\.)[.。]$", "", text).strip()
        if match := _EMPHASIS.fullmatch(text):
            text = match[2].strip()
        if len(text) > 2 and _QUOTES.get(text[0]) == text[-1]:
            text = text[1:-1].strip()
        if text == before:
            break
    return text


@functools.lru_cache(CACHED)
def squeezed(text: str) -> str:
    """An expression without whitespace and without synonyms: two that are equal here are equal anywhere."""
    text = re.sub(r"√\s*(\d+|[a-z])", r"\\sqrt{\1}", plain(text))
    text = re.sub(r"\\sqrt\s*(\d)(?!\d)", r"\\sqrt{\1}", text)
    text = re.sub(
        r"\\begin\{[bpv]?matrix\}", r"\\begin{matrix}", re.sub(r"\\end\{[bpv]?matrix\}", r"\\end{matrix}", text)
    )
    text = re.sub(r"\\(?:cdot|times)(?![a-zA-Z])|[×·]", "*", text)
    return re.sub(r"\s+|\{(?=\w\})|(?<=\{\w)\}", "", text)


def _scripts(text: str) -> str:
    """Superscripts and subscripts as LaTeX writes them; NFKC alone would glue them to their neighbours."""
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match[0]).replace('−', '-')}}}", text)
    return _SUBSCRIPT.sub(lambda match: f"_{{{unicodedata.normalize('NFKC', match[0])}}}", text)
