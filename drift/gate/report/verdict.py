"""The decision as two numbers and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drift.gate.report.summary import Summary


@dataclass(frozen=True)
class Headline:
    """A number that the verdict rests on, in points, with its two-sided interval."""

    title: str
    points: float
    low: float
    high: float
    good: bool
    said: str
    """In two or three words."""


def headlines(summary: Summary, decision: Mapping[str, Any]) -> list[Headline]:
    """The candidate's gain in reasoning and change in perception, against the unmodified VLM."""
    compared = decision["comparisons"][summary.candidate]
    gained = next(check["passed"] for check in decision["checks"] if check["name"] == "reasoning_gain")
    kept = next(bool(row.retained) for row in summary.rows[1:] if row.label == summary.candidate)
    return [
        _headline("reasoning", compared["reasoning"], gained, "gain shown" if gained else "no gain shown"),
        _headline("perception", compared["perception"], kept, "retained" if kept else "not shown to be retained"),
    ]


def _headline(title: str, difference: Mapping[str, float], good: bool, said: str) -> Headline:
    return Headline(title, difference["points"], difference["low"], difference["high"], good, said)


def sentence(summary: Summary, decision: Mapping[str, Any]) -> str:
    """What a pass says; of a refusal the first reason, and how many there are more."""
    if summary.passed:
        return f"It reasons better than {decision['baseline']} and has kept its perception."
    more = len(summary.reasons) - 1
    rest = f" And {more} more; see the gate's checks." if more else ""
    return f"{summary.reasons[0]}{rest}"
