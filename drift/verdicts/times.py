"""Times of day and dates. A clock time is no ratio: 1:15 and 3:45 are two hours and a half apart."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from drift.verdicts.numbers import parse_number
from drift.verdicts.plain import CACHED, MAX_ANSWER_CHARACTERS, plain

_HALF_OF_DAY = r"(?P<half>[ap])\.?\s?m\.?"
_CLOCK = re.compile(
    rf"(?P<hour>\d{{1,2}}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?\s*(?:{_HALF_OF_DAY})?(?:\s*(?:o'clock|h|hrs?))?"
)
_HOUR = re.compile(
    rf"(?P<hour>\w+)\s*(?:o'?\s?clock(?:\s*{_HALF_OF_DAY})?|(?<=\d)\s*{_HALF_OF_DAY.replace('half', 'half2')})"
)
_SPOKEN = re.compile(
    r"(?:(?:a )?(?P<part>quarter|half|[\w-]+)(?: minutes?)?) (?P<side>past|after|to|before|till) (?P<hour>\w+)"
    rf"\s*(?:{_HALF_OF_DAY})?"
)
_PARTS = {"quarter": 15, "half": 30}
_NAMED = {"noon": (12, "p"), "midday": (12, "p"), "midnight": (12, "a")}
_NAMES = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november")
_MONTHS = {name[:3]: place for place, name in enumerate((*_NAMES, "december"), 1)}
_MONTH = rf"(?P<month>{'|'.join(_NAMES)}|december|sept|{'|'.join(_MONTHS)})\.?"
_DAY = r"(?:the )?(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_MONTH} {_DAY}(?:,? (?P<year>\d{{4}}))?",
        rf"{_DAY}(?: of)? {_MONTH}(?:,? (?P<year>\d{{4}}))?",
        rf"{_MONTH},? (?P<year>\d{{4}})",
        r"(?P<year>\d{4})(?P<sign>[-/.])(?P<month>\d{1,2})(?P=sign)(?P<day>\d{1,2})",
    )
)
_SHORT_DATE = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})")


@dataclass(frozen=True)
class Time:
    """A time of day; ``half`` is `a` or `p`, None where it is not said, and ``hour`` then as written."""

    hour: int
    minute: int = 0
    second: int = 0
    half: str | None = None


Date = tuple[int | None, int | None, int | None]
"""Year, month and day; None where it is not said."""


@functools.lru_cache(CACHED)
def read_time(text: str) -> Time | None:
    """``7:15``, ``7:15 A.M.``, ``9 am``, ``3 o'clock``, ``quarter past seven``, ``noon``; None for anything else.

    Two digits of minutes make a time; ``1:2`` is a ratio.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    text = re.sub(r"^(?:it is|it's|at) ", "", plain(text).lower())
    if text in _NAMED:
        return Time(_NAMED[text][0], half=_NAMED[text][1])
    if match := _CLOCK.fullmatch(text) or _CLOCK.fullmatch(text + "."):
        return _time(match["hour"], int(match["minute"]), int(match["second"] or 0), match["half"])
    if match := _HOUR.fullmatch(text) or _HOUR.fullmatch(text + "."):
        return _time(match["hour"], 0, 0, match["half"] or match["half2"])
    if match := _SPOKEN.fullmatch(text):
        return _spoken(match)
    return None


def _spoken(match: re.Match[str]) -> Time | None:
    part = _PARTS.get(match["part"]) or _whole(match["part"])
    hour = _whole(match["hour"])
    if part is None or hour is None or part >= 60:
        return None
    if match["side"] in ("past", "after"):
        return _time(str(hour), part, 0, match["half"])
    return _time(str((hour - 2) % 12 + 1), 60 - part, 0, match["half"])


def _whole(text: str) -> int | None:
    number = parse_number(text)
    return int(number.value) if number and number.value.denominator == 1 and not (number.unit or number.word) else None


def _time(written: str, minute: int, second: int, half: str | None) -> Time | None:
    hour = _whole(written)
    if hour is None or not 0 <= hour <= 24 or (half and hour > 12):
        return None
    return Time(hour, minute, second, half)


def same_time(answer: Time, gold: Time) -> bool | None:
    """Whether two times are one; None where the gold does not say which half of the day, and the answer does otherwise.

    An answer without its half is not the time of a gold that only a 24-hour clock writes: 3:30 is not 15:30.
    """
    if (answer.minute, answer.second) != (gold.minute, gold.second):
        return False
    hours = _hour_of_day(answer), _hour_of_day(gold)
    if answer.half is None and gold.half is None and gold.hour <= 12 < answer.hour:
        return None if answer.hour - 12 == gold.hour else False
    if gold.half is None and 1 <= gold.hour <= 12:
        return answer.hour == gold.hour or (answer.hour == 0 and gold.hour == 12)
    if answer.half is None and gold.half is not None and 1 <= answer.hour <= 12:
        return answer.hour == _on_dial(gold)
    return hours[0] == hours[1]


def _hour_of_day(time: Time) -> int:
    return time.hour % 24 if time.half is None else time.hour % 12 + (12 if time.half == "p" else 0)


def _on_dial(time: Time) -> int:
    return (_hour_of_day(time) - 1) % 12 + 1


@functools.lru_cache(CACHED)
def read_dates(text: str) -> frozenset[Date]:
    """All dates that ``text`` may be: 6/7/2024 is two. Empty if it is none."""
    if len(text) > MAX_ANSWER_CHARACTERS:
        return frozenset()
    text = re.sub(r"^(?:on )?(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,? )?", "", plain(text), flags=re.IGNORECASE)
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            return _valid([_date(match)])
    if match := _SHORT_DATE.fullmatch(text):
        first, second, year = int(match[1]), int(match[3]), int(match[4])
        return _valid([(year, first, second), (year, second, first)])
    return frozenset()


def _date(match: re.Match[str]) -> Date:
    found = match.groupdict()
    month = _MONTHS.get(found["month"][:3].lower()) or int(found["month"])
    return (int(found["year"]) if found.get("year") else None, month, int(found["day"]) if found.get("day") else None)


def _valid(dates: list[Date]) -> frozenset[Date]:
    return frozenset(date for date in dates if 1 <= (date[1] or 1) <= 12 and 1 <= (date[2] or 1) <= 31)


def same_date(answer: frozenset[Date], gold: frozenset[Date]) -> bool | None:
    """Whether two dates are one; None where one of them could be two days, and only one of those is the other's."""
    return True if answer == gold else None if answer & gold else False
