"""Numbers as people and models write them, read exactly and compared with respect to rounding."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "pi"})
"""Names of mathematics that are neither units nor words."""

_UNITS = {
    "°": "degree degrees deg 度",
    "mm": "millimeter millimeters millimetre millimetres 毫米",
    "cm": "centimeter centimeters centimetre centimetres 厘米",
    "m": "meter meters metre metres 米",
    "km": "kilometer kilometers kilometre kilometres 千米 公里",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "mg": "milligram milligrams",
    "g": "gram grams 克",
    "kg": "kilogram kilograms 千克",
    "lb": "lbs pound pounds",
    "ms": "millisecond milliseconds",
    "s": "sec secs second seconds 秒",
    "min": "mins minute minutes 分钟",
    "h": "hr hrs hour hours 小时",
    "day": "days 天",
    "ml": "milliliter milliliters",
    "l": "liter liters litre litres",
    "unit": "units",
    "cent": "cents",
    "dollar": "dollars",
    "元": "yuan",
    "n": "newton newtons",
    "j": "joule joules",
    "w": "watt watts",
    "v": "volt volts",
    "hz": "hertz",
    "pa": "pascal pascals",
}
UNITS = {name: unit for unit, names in _UNITS.items() for name in [unit, *names.split()]}

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?P<whole>{_DIGITS})?(?:\.(?P<part>\d+))?(?:[eE](?P<exponent>[+-]?\d{{1,2}}))?"
_RATIO = rf"(?:(?P<mixed>\d+) )?(?P<over>{_DIGITS})\s*[/:]\s*(?P<under>{_DIGITS})"
_NUMBER = re.compile(rf"(?P<sign>[+-]?)\s*(?:{_RATIO}|{_DECIMAL})(?P<tail>.*)", re.DOTALL)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_POWER_OF_TEN = re.compile(r"\s*(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*\{?\s*([+-]?\d{1,2})\s*\}?")


@dataclass(frozen=True)
class Number:
    """An exact value; ``decimals`` as written (None for a fraction), whether ``%`` followed, the known unit."""

    value: Fraction
    decimals: int | None
    percent: bool
    unit: str | None


def plain(text: str) -> str:
    """``text`` in NFKC without LaTeX's wrapping: ``$...$``, ``\\text{...}``, spacing commands, a closing period.

    Superscripts become ``^2`` and vulgar fractions `` 1/2``, which NFKC alone would glue to their neighbours.
    """
    text = unicodedata.normalize("NFKC", "".join(map(_spelled_out, text)))
    text = text.replace("−", "-").replace("–", "-").replace("{,}", ",").replace("⁄", "/").replace("º", "°")
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\circ", "°", text)
    text = re.sub(r"\\[,;!: ]|\\(?:left|right|displaystyle)(?![a-zA-Z])|~|\\\(|\\\)|\\\[|\\\]", " ", text)
    text = re.sub(r"\\?\$", "", text).replace("\\%", "%")
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").strip()


def parse_number(text: str) -> Number | None:
    """The number that ``text`` is, or None. Reads ``1,234``, ``1 1/2``, ``\\frac{1}{2}``, ``1:2``, ``50%``, ``30°``,
    ``$5``, ``36 m^2``, ``1.2e3``, ``3\\times10^{4}`` and ``x = 5``; no expressions and no words alone.
    """
    text = re.sub(r"^\\?[A-Za-z]\w{0,7}\s*=\s*", "", plain(text)).lstrip("€£¥ ")
    text = _FRACTION.sub(lambda match: f" {match[1] or match[2]}/{match[3] or match[4]}", text).strip()
    text = re.sub(r"^([+-])\s+", r"\1", _POWER_OF_TEN.sub(r"e\1", text))
    match = _NUMBER.fullmatch(text)
    if match is None or not (match["over"] or match["whole"] or match["part"]):
        return None
    tail = _read_tail(match["tail"].strip())
    value = _value(match)
    if tail is None or value is None:
        return None
    decimals = None if match["over"] else max(0, len(match["part"] or "") - int(match["exponent"] or 0))
    return Number(-value if match["sign"] == "-" else value, decimals, *tail)


def same_number(answer: Number, gold: Number) -> bool:
    """Whether ``answer`` is ``gold``: exact, or ``answer`` rounded to the decimals that ``gold`` is written with.

    A fraction as gold may be answered by a decimal of at least two places. ``50%`` is 0.5 and 50. Two known
    units that differ are different numbers; a missing unit is not.
    """
    if answer.unit and gold.unit and answer.unit != gold.unit:
        return False
    values = [answer.value]
    if answer.percent != gold.percent:
        values.append(answer.value / 100 if answer.percent else answer.value * 100)
    return any(_rounds_to(value, answer.decimals, gold) for value in values)


def _rounds_to(value: Fraction, decimals: int | None, gold: Number) -> bool:
    if value == gold.value:
        return True
    if gold.decimals:
        return _rounded(value, gold.decimals) == gold.value
    if gold.decimals is None and decimals is not None and decimals >= 2:
        return value == _rounded(gold.value, decimals)
    return False


def _rounded(value: Fraction, decimals: int) -> Fraction:
    """Half away from zero, as people round."""
    scaled = abs(value) * 10**decimals
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return Fraction(whole if value >= 0 else -whole, 10**decimals)


def _value(match: re.Match[str]) -> Fraction | None:
    if match["over"]:
        under = _integer(match["under"])
        return Fraction(_integer(match["over"]), under) + _integer(match["mixed"]) if under else None
    part = match["part"] or ""
    digits = Fraction(_integer((match["whole"] or "0").replace(",", "").replace(" ", "") + part), 10 ** len(part))
    return digits * Fraction(10) ** int(match["exponent"] or 0)


def _integer(digits: str | None) -> int:
    return int((digits or "0").replace(",", "").replace(" ", ""))


def _read_tail(tail: str) -> tuple[bool, str | None] | None:
    """``(percent, unit)`` of what follows the digits; None if that is no unit, so the whole is no number."""
    if tail in {"", "%", "percent"}:
        return bool(tail), None
    power = re.search(r"\s*\^\s*\{?\s*([23])\s*\}?$", tail)
    words = (tail[: power.start()] if power else tail).lower().replace(".", "").split()
    square = {"square": "2", "sq": "2", "cubic": "3"}.get(words[0]) if words else None
    name = " ".join(words[1:] if square else words)
    unit = "/".join(UNITS.get(part.strip(), "") for part in re.split(r"/| per ", name))
    exponent = square or (power[1] if power else "")
    if "" not in unit.split("/"):
        return False, unit + exponent
    ordinary = all(re.fullmatch(r"[a-z]{3,}", word) and word not in FUNCTIONS for word in words)
    return (False, None) if ordinary and not power and len(words) <= 3 else None


def _spelled_out(character: str) -> str:
    decomposition = unicodedata.decomposition(character)
    if decomposition.startswith("<super>") and character not in "ªº":
        return "^" + unicodedata.normalize("NFKC", character)
    return " " + character if decomposition.startswith("<fraction>") else character
