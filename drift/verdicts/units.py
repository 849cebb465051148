"""Units as people write them, converted by pint, exactly. Currencies are units; each is a dimension of its own.

A unit is a text in pint's spelling, such as `kilometer * hour**-1`; the empty text stands for "units" and the like,
which say nothing.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any

_PREFIXES = {
    "": "", "n": "nano", "µ": "micro", "u": "micro", "m": "milli", "c": "centi", "d": "deci", "k": "kilo",
    "M": "mega", "G": "giga", "T": "tera",
}  # fmt: skip
_SYMBOLS = {
    "m": "meter", "g": "gram", "s": "second", "L": "liter", "l": "liter", "W": "watt", "V": "volt", "A": "ampere",
    "Hz": "hertz", "Pa": "pascal", "J": "joule", "N": "newton", "Ω": "ohm", "ohm": "ohm", "F": "farad", "T": "tesla",
    "C": "coulomb", "eV": "electron_volt", "mol": "mole", "K": "kelvin", "B": "byte", "bit": "bit", "cal": "calorie",
    "Wh": "watt_hour",
}  # fmt: skip
_ALONE = frozenset({"F", "T", "C", "mol", "dL"})
_NAMES = {
    "degree": "° deg 度", "degree_Celsius": "°C 摄氏度 celsius centigrade", "degree_Fahrenheit": "°F fahrenheit",
    "minute": "min mins 分钟 分", "hour": "h hr hrs 小时 时", "second": "sec secs 秒", "day": "d days 天",
    "year": "yr yrs 年 岁", "month": "月", "week": "wk wks 周",
    "inch": "in ″", "foot": "ft feet ′", "yard": "yd yds", "mile": "mi", "pound": "lb lbs", "ounce": "oz",
    "meter": "米", "kilometer": "千米 公里", "decimeter": "分米", "centimeter": "厘米", "millimeter": "毫米",
    "gram": "克", "kilogram": "千克 公斤", "milligram": "毫克", "metric_ton": "t tonne tonnes 吨", "liter": "升",
    "milliliter": "毫升 cc", "hectare": "ha 公顷", "hertz": "hz", "kilohertz": "khz KHz", "megahertz": "mhz MHZ",
    "gigahertz": "ghz", "kilobyte": "KB kb", "megabyte": "mb", "gigabyte": "gb",
    "mile * hour**-1": "mph", "kilometer * hour**-1": "kph kmh kmph", "radian": "rad rads",
    "standard_atmosphere": "atm", "bar": "bar", "millimeter_Hg": "mmHg", "foot**2": "sqft",
    "US_dollar": "$ dollar dollars USD usd US$ bucks 美元", "US_cent": "¢ cent cents penny pennies",
    "euro": "€ euro euros EUR eur 欧元", "British_pound": "£ GBP gbp quid", "Chinese_yuan": "元 yuan RMB CNY 人民币",
    "Japanese_yen": "¥ yen JPY 日元", "Indian_rupee": "₹ rupee rupees INR Rs",
    "": "unit units 个 只 人 张 本 条 块 次 名 棵 支 辆",
}  # fmt: skip
_MONEY = (
    "US_dollar = [US_money]", "US_cent = US_dollar / 100", "euro = [euro_money]", "British_pound = [British_money]",
    "Chinese_yuan = [Chinese_money]", "Japanese_yen = [Japanese_money]", "Indian_rupee = [Indian_money]",
)  # fmt: skip
_SAME_WORD = (
    {"pound", "British_pound"},
    {"degree", "degree_Celsius"},
    {"degree", "degree_Fahrenheit"},
)

_POWERS = {"square": 2, "sq": 2, "平方": 2, "cubic": 3, "cu": 3, "立方": 3}
_AFTER = frozenset(
    {"old", "long", "tall", "wide", "high", "deep", "away", "apart", "each", "total", "altogether", "left"}
)
_WORDS = re.compile(
    r"(?:(?P<power>square|sq|cubic|cu)\.?\s+|(?P<sign>平方|立方))?"
    r"(?P<name>°\s?[CF](?![a-zA-Z])|US\$|[$€£¥₹¢°′″%]|[A-Za-zµμΩ]+|[一-鿿]+)\.?"
    r"(?:\s*(?:\^|\*\*)\s*\{?\s*(?P<exponent>-?\d)\s*\}?|(?P<digit>[23])(?!\d)|\s+(?P<word>squared|cubed))?"
)


def read_unit(text: str) -> str | None:
    """The unit that ``text`` is, in pint's spelling; None if it is none.

    Reads ``m/s^2``, ``square meters``, Chinese names, ``km per hour``, ``m s^{-1}``, ``$``. Adjectives after it, as in
    ``years old``, are left out.
    """
    return _read(text.strip())


@functools.lru_cache(4096)
def _read(text: str) -> str | None:
    text = re.sub(r"\bdegrees?\s+", "°", text) if re.search(r"(?i)degrees?\s+[CF]", text) else text
    words = text.split()
    while len(words) > 1 and words[-1].lower() in _AFTER:
        words.pop()
    text = re.sub(r"(?i)°(celsius|centigrade|fahrenheit)", r"\1", " ".join(words))
    parts: list[str] = []
    place, over = 0, False
    while place < len(text):
        if joint := re.compile(r"\s*(/|\bper\b|\\cdot|\*|·|\s)\s*").match(text, place):
            over = over or joint[1] in ("/", "per")
            place = joint.end()
            continue
        match = _WORDS.match(text, place)
        factor = _factor(match) if match else None
        if match is None or factor is None:
            return None
        name, exponent = factor
        if name:
            parts.append(_raised(name, -exponent if over else exponent))
        place = match.end()
    return " * ".join(parts)


def _raised(name: str, exponent: int) -> str:
    if exponent == 1:
        return name
    return f"({name})**{exponent}" if " " in name else f"{name}**{exponent}"


def _factor(match: re.Match[str]) -> tuple[str, int] | None:
    exponent = int(match["exponent"] or match["digit"] or 1)
    exponent = {"squared": 2, "cubed": 3}.get(match["word"] or "", exponent)
    exponent *= _POWERS.get(match["power"] or match["sign"] or "", 1)
    unit = _named(match["name"].replace("° ", "°").replace("μ", "µ"))
    return None if unit is None else (unit, exponent)


@functools.cache
def _known() -> dict[str, str]:
    known = {
        prefix + symbol: _PREFIXES[prefix] + name
        for prefix in _PREFIXES
        for symbol, name in _SYMBOLS.items()
        if (prefix or symbol not in _ALONE) and (prefix not in ("c", "d") or symbol in "mLlg")
    }
    return known | {name: unit for unit, names in _NAMES.items() for name in names.split()}


def _named(name: str) -> str | None:
    """The unit of one word: a symbol or name of the tables above, or a full name that pint knows."""
    known = _known()
    for spelling in (name, name.lower()) if len(name) > 1 else (name,):
        if spelling in known:
            return known[spelling]
    return _full_name(name.lower().replace("metre", "meter").replace("litre", "liter"))


def _full_name(word: str) -> str | None:
    """pint also reads `cats` as centi-atmospheres: only names written out count."""
    if len(word) < 3 or not word.isascii() or not word.isalpha():
        return None
    for prefix, unit, _ in registry().parse_unit_name(word):
        if word in {f"{prefix}{unit}{ending}" for ending in ("", "s", "es")}:
            return f"{prefix}{unit}"
    return None


@functools.cache
def registry() -> Any:
    """pint's registry over fractions, so that nothing is rounded, with the currencies."""
    import pint

    units: Any = pint.UnitRegistry(non_int_type=Fraction)
    for money in _MONEY:
        units.define(money)
    return units


@functools.lru_cache(4096)
def convert(value: Fraction, unit: str, to: str) -> Fraction | None:
    """``value`` of ``unit`` in the unit ``to``; None if the two measure different things.

    What people write with one sign or word (° for angles and temperatures, pounds) is taken for the same.
    """
    if unit == to or not unit or not to or {unit, to} in _SAME_WORD:
        return value
    units = registry()
    try:
        return Fraction(units.Quantity(value, units.parse_units(unit)).to(to).magnitude)
    except Exception:  # pint raises several kinds: dimensions, offsets, unknown names
        return None
