"""One generation as the filters see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drift.verdicts.verdict import Status


@dataclass(frozen=True, slots=True)
class Candidate:
    """One generation: full text with its tags, verdict, how often its problem was solved, and that problem."""

    id: str
    sample: int
    text: str
    finish_reason: str | None
    tokens: int | None
    teacher: str | None
    status: Status
    pass_rate: float
    source: str = ""
    answer_kind: str = "text"
    gold: str = ""
    choices: Sequence[str] | None = None
    problem: str = ""


Reason = Callable[[Candidate], str | None]
"""Why a candidate is left out; None keeps it."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What is in memory of a chain that its own filters let through: the number of its generation, and its problem."""

    number: int
    id: str
    source: str
    answer_kind: str
    pass_rate: float
