r"""Arithmetic with rational numbers, exactly: ``\frac{1}{2^{99}}``, ``5!``, ``\sqrt{16}``, ``3 \cdot 10^{4}``.

math-verify compares such values as floats, in which 2⁻⁹⁸ and 2⁻⁹⁹, or two large factorials, are the same.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_BITS = 1 << 18
MAX_FACTORIAL = 10_000
MAX_DEPTH = 40

_TOKEN = re.compile(r"\s*(\d+\.\d+|\.\d+|\d+|\\frac|\\sqrt|\\cdot|\\times|\\div|\*\*|[-+*/^!(){}\[\]×·÷√])")


class NotExactError(ValueError):
    """The text is no arithmetic, or its value is not rational."""


class TooLargeError(NotExactError):
    """The value has more digits than anyone should compute."""


def evaluate(text: str) -> Fraction:
    """The value of a plain text (see `plain`). Raises NotExactError; TooLargeError for one out of all proportion."""
    tokens: list[str] = []
    place = 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None or len(tokens) > 300:
            raise NotExactError(text)
        tokens.append(match[1])
        place = match.end()
    reader = _Reader(tokens)
    value = reader.sum(0)
    if reader.place < len(tokens):
        raise NotExactError(text)
    return value


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *expected: str) -> str:
        token = self.peek()
        if not token or (expected and token not in expected):
            raise NotExactError(token or "the end")
        self.place += 1
        return token

    def sum(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise NotExactError("too deep")
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value += sign * self.product(depth)
        return _bounded(value)

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while token := self.peek():
            if token in ("*", "\\cdot", "\\times", "×", "·"):
                self.take()
                value *= self.signed(depth)
            elif token in ("/", "\\div", "÷"):
                self.take()
                value = _divided(value, self.signed(depth))
            elif token in ("(", "\\frac", "\\sqrt", "√"):
                value *= self.power(depth)
            else:
                break
        return _bounded(value)

    def signed(self, depth: int) -> Fraction:
        signs = 0, 1
        while self.peek() in ("+", "-"):
            signs = signs[0] + 1, signs[1] * (1 if self.take() == "+" else -1)
        if signs[0] > 2:
            raise NotExactError("signs")
        return signs[1] * self.power(depth)

    def power(self, depth: int) -> Fraction:
        base = self.postfix(depth)
        if self.peek() in ("^", "**"):
            self.take()
            return _raised(base, self.exponent(depth))
        return base

    def exponent(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise NotExactError("too deep")
        if self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            return sign * self.exponent(depth + 1)
        if self.peek() in ("(", "{"):
            value = self.group(depth)
        else:
            value = Fraction(self.take()) if self.peek().isdigit() else self.atom(depth)
        return _raised(value, self.exponent(depth + 1)) if self.peek() in ("^", "**") and self.take() else value

    def postfix(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while self.peek() == "!":
            self.take()
            if value.denominator != 1 or value < 0:
                raise NotExactError("factorial")
            if value > MAX_FACTORIAL:
                raise TooLargeError("factorial")
            value = Fraction(math.factorial(int(value)))
        return value

    def atom(self, depth: int) -> Fraction:
        token = self.peek()
        if token in ("(", "{", "["):
            return self.group(depth)
        self.take()
        if token == "\\frac":
            return _divided(self.argument(depth), self.argument(depth))
        if token in ("\\sqrt", "√"):
            return _root(self.argument(depth))
        if token.isdigit() and self.peek() == "\\frac":
            return int(token) + self.atom(depth)  # a mixed number: 1\frac{1}{2} is 3/2
        if token[0].isdigit() or token[0] == ".":
            return Fraction("0" + token if token[0] == "." else token)
        raise NotExactError(token)

    def argument(self, depth: int) -> Fraction:
        r"""``{12}``, or the first digit alone, as LaTeX reads ``\frac12``."""
        token = self.peek()
        if token in ("{", "("):
            return self.group(depth)
        if token.isdigit() and len(token) > 1:
            self.tokens[self.place : self.place + 1] = [token[0], token[1:]]
        return self.atom(depth)

    def group(self, depth: int) -> Fraction:
        closing = {"(": ")", "{": "}", "[": "]"}[self.take("(", "{", "[")]
        value = self.sum(depth + 1)
        self.take(closing)
        return value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLargeError("value")
    return value


def _divided(value: Fraction, by: Fraction) -> Fraction:
    if by == 0:
        raise NotExactError("division by zero")
    return value / by


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator == 2:
        return _raised(_root(base), exponent * 2)
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        raise NotExactError("power")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base not in (0, 1, -1) and abs(exponent) * bits > MAX_BITS:
        raise TooLargeError("power")
    return base ** (int(exponent) if base not in (1, -1) else int(exponent % 2))


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise NotExactError("root of a negative number")
    roots = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if (roots[0] ** 2, roots[1] ** 2) != (value.numerator, value.denominator):
        raise NotExactError("irrational root")
    return Fraction(*roots)
