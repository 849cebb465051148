r"""Expressions, decided by math-verify in processes of their own, and what it says checked before it is believed.

It parses model text with sympy, can hang, and limits itself by a wall-clock signal that a loaded machine trips; so it
runs in processes that end after so many seconds of a core. It compares values as floats, so that it takes 2⁻⁹⁸ for
2⁻⁹⁹: values are computed here to sixty digits, and formulas at points of their own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from drift.ground.progress import shown
from drift.verdicts.plain import plain

Decision = Literal["correct", "incorrect", "undetermined"]

MAX_WORKERS = 8
WAITS = 20
"""Times the limit by the wall clock, after which a process is killed that waits for a core, or for nothing at all."""
DIGITS = 60
_POINTS = ("0.73105857863", "1.6487212707", "2.2360679775")
_SIGNS = {"≤": r"\le ", "≥": r"\ge ", "∞": r"\infty ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "∅": r"\emptyset "}
_TRIGONOMETRY = r"\\?(?:sin|cos|tan|cot|sec|csc)"


@dataclass(frozen=True, order=True)
class Pair:
    """Gold and answer in LaTeX; ``within`` is how far apart a rounded value may be, as a decimal."""

    gold: str
    answer: str
    within: str | None = None


Decide = Callable[[Iterable[Pair], float], dict[Pair, Decision]]
"""`decide`, or what does the same elsewhere."""


def latex(text: str) -> str:
    r"""``text`` as math-verify reads it: decimals as fractions, degrees as parts of π, signs as commands."""
    text = plain(text).replace("$", "")
    text = re.sub(
        rf"({_TRIGONOMETRY})\s*\{{?\(?\s*((?:[1-9][05]|[1-3]\d[05]))\s*\)?\}}?(?![\d.°πa-zA-Z^])", r"\1 \2°", text
    )
    text = re.sub(r"\{\s*(\d+(?:\.\d+)?)\s*\}\s*°|(\d+(?:\.\d+)?)\s*°", r"(\\frac{\1\2 \\pi}{180})", text)
    text = re.sub(
        r"(?<![\w.])(\d*)\.(\d+)", lambda match: rf"\frac{{{match[1]}{match[2]}}}{{1{'0' * len(match[2])}}}", text
    )
    text = re.sub(r"√\s*\(?(\d+|[a-z])\)?", r"\\sqrt{\1}", text).replace("√", r"\sqrt")
    text = re.sub(r"\\sqrt\s*\((\w+)\)", r"\\sqrt{\1}", text).replace("**", "^")
    text = re.sub(r"(?<![\\a-zA-Z])(sin|cos|tan|cot|sec|csc|log|ln|sqrt)(?![a-zA-Z])", r"\\\1", text)
    for sign, command in {"π": r"\pi ", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", **_SIGNS}.items():
        text = text.replace(sign, command)
    return re.sub(r"(?<=[{(])\s+|\s+(?=[})])", "", text)


def decide(pairs: Iterable[Pair], timeout_seconds: float, processes: int | None = None) -> dict[Pair, Decision]:
    """A decision for each pair. What ran into the limit is tried once more, and is undetermined if it does so again.

    ``timeout_seconds``: of a core, so that a loaded machine decides as an idle one does. ``processes``: at most so
    many; None takes one for each core, up to `MAX_WORKERS`.
    """
    asked = sorted(set(pairs), key=lambda pair: (pair.gold, pair.answer, pair.within or ""))
    decided = _in_processes(asked, timeout_seconds, processes)
    again = [pair for pair in asked if decided[pair] is None]
    decided |= _in_processes(again, timeout_seconds, processes)
    return {pair: decision or "undetermined" for pair, decision in decided.items()}


def _in_processes(pairs: list[Pair], timeout_seconds: float, processes: int | None) -> dict[Pair, Decision | None]:
    """None: no decision within the limit."""
    if not pairs:
        return {}
    from pebble import ProcessExpired, ProcessPool

    workers = min(processes or os.cpu_count() or 1, MAX_WORKERS, len(pairs))
    decided: dict[Pair, Decision | None] = {}
    context = multiprocessing.get_context("forkserver")
    with ProcessPool(max_workers=workers, context=context, initializer=_import_math_verify) as pool:
        results = pool.map(partial(_limited, timeout_seconds), pairs, timeout=WAITS * timeout_seconds).result()
        for pair in shown(pairs, "verify", len(pairs), unit="answer"):
            try:
                decided[pair] = next(results)
            except (FutureTimeoutError, ProcessExpired):
                decided[pair] = None
    return decided


def _import_math_verify() -> None:
    """Before the first item, so that its time limit does not count the import."""
    import math_verify

    logging.getLogger(math_verify.__name__).setLevel(logging.ERROR)  # it warns that its own time limits are off


# ------------------------------------------------------------------------------------- in a worker


def _limited(seconds: float, pair: Pair) -> Decision:
    """`_compare`; SIGPROF, which Python leaves to its default, ends this process after so many seconds of a core."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return _compare(pair)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _compare(pair: Pair) -> Decision:
    """math-verify's own time limits are off: they are wall time and end in a silent False."""
    from math_verify import verify

    try:
        gold, answer = _parsed(pair.gold), _parsed(pair.answer)
        if not gold:
            return "undetermined"
        if not answer:
            return "incorrect"
        if (values := _values(gold[0], answer[0])) is not None:
            return _same_value(*values, pair.within)
        if pair.within is not None:
            return "incorrect"
        said = verify(gold, answer, timeout_seconds=None)
        return "correct" if said and not _contradicted(gold[0], answer[0]) else "incorrect"
    except Exception:  # sympy raises many kinds on text that is no mathematics
        return "undetermined"


def _parsed(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    return parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None)


def _values(gold: Any, answer: Any) -> tuple[Any, Any] | None:
    """Both as numbers of sixty digits; None if one is a formula, a set or a relation."""
    values = [_value(one, {}) for one in (gold, answer)]
    return None if None in values else (values[0], values[1])


def _value(expression: Any, at: dict[Any, Any]) -> Any:
    import sympy

    if not isinstance(expression, sympy.Expr) or expression.free_symbols - set(at):
        return None
    value = expression.evalf(DIGITS, subs=at)
    return value if value.is_number and value.is_finite and not value.free_symbols else None


def _same_value(gold: Any, answer: Any, within: str | None) -> Decision:
    import sympy

    difference = abs((gold - answer).evalf(DIGITS))
    limit = sympy.Rational(within) if within else abs(gold) * sympy.Rational(1, 10 ** (DIGITS * 2 // 3))
    return "correct" if difference <= limit else "incorrect"


def _contradicted(gold: Any, answer: Any) -> bool:
    """Whether two formulas differ at a point, or two equations by more than a factor."""
    import sympy

    if isinstance(gold, sympy.Equality) and isinstance(answer, sympy.Equality):
        ratios = [_ratio(gold, answer, at) for at in _points(gold, answer)]
        known = [ratio for ratio in ratios if ratio is not None]
        return any(abs(ratio - known[0]) > 10**-20 * abs(known[0]) for ratio in known)
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return False
    values = [(_value(gold, at), _value(answer, at)) for at in _points(gold, answer)]
    return any(
        _same_value(one, other, None) == "incorrect" for one, other in values if one is not None and other is not None
    )


def _ratio(gold: Any, answer: Any, at: dict[Any, Any]) -> Any:
    left, right = (_value(one.lhs - one.rhs, at) for one in (gold, answer))
    return None if left is None or not right else left / right


def _points(gold: Any, answer: Any) -> list[dict[Any, Any]]:
    import sympy

    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    return [
        {symbol: sympy.Float(point, DIGITS) + place * turn for place, symbol in enumerate(symbols)}
        for turn, point in enumerate(_POINTS, 1)
    ]
