"""What it would take to see a loss as small as a margin: how many questions, or how many samples of each.

V variance of Δ, q and SE as in `drift.gate.statistics`, c = z_{1−α} + z_{power}: at SE = margin/c a model that lost
nothing passes with that power, `AIM`, which leaves 0.8 with the other rules beside it (docs/gate.md). With n questions
instead of n₀ the variance is V·n₀/n and the part for what was not seen q·(n₀/n)²; with k samples instead of k₀ the part
of V that comes from the samples is W·k₀/k, and what the questions themselves differ by stays.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from drift.gate.statistics import Difference

AIM = 0.88
MOST_SAMPLES = 16
CHANCE = 0.5
"""Share of V that a question asked once is taken to owe to its sample. It is known where each was asked twice."""


def questions_needed(difference: Difference, margin: float, confidence: float) -> int | None:
    """So many questions like these show a loss as small as ``margin``; None for a margin of 0, which none do."""
    allowed, variance, unseen = (
        _allowed(margin, confidence),
        difference.spread.variance,
        _unseen(difference, confidence),
    )
    if allowed == 0:
        return None
    ratio = 2 * allowed / (variance + math.sqrt(variance**2 + 4 * unseen * allowed))  # n₀/n
    return math.ceil(difference.n / ratio)


def samples_needed(difference: Difference, margin: float, confidence: float) -> int | None:
    """So many samples of each question do the same; None if more than `MOST_SAMPLES` would have to be asked for."""
    spread, now = difference.spread, difference.samples
    noise = CHANCE * spread.variance if spread.noise is None else min(spread.noise, spread.variance)
    left = _allowed(margin, confidence) - (spread.variance - noise) - _unseen(difference, confidence)
    if left <= 0 or noise * now > left * MOST_SAMPLES:
        return None
    return max(1, math.ceil(noise * now / left))


def remedy(difference: Difference, margin: float, confidence: float) -> str:
    """The two as half a sentence, for a margin below the detectable effect."""
    questions = questions_needed(difference, margin, confidence)
    if questions is None:
        return "no number of questions shows a loss of 0; allow one"
    samples = samples_needed(difference, margin, confidence)
    asked = f"{samples} samples of each question (evaluate.samples), or " if samples else ""
    return f"{asked}{questions} questions instead of {difference.n} would show {margin:.1f}"


def _allowed(margin: float, confidence: float) -> float:
    """The largest SE² that will do."""
    return (margin / float(ndtri(confidence) + ndtri(AIM))) ** 2


def _unseen(difference: Difference, confidence: float) -> float:
    """The part of SE² for what was not seen."""
    return difference.spread.error(confidence) ** 2 - difference.spread.variance
