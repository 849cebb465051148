"""What checks find before anything is spent: each passes, finds a problem, or has something to note that is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from drift.ground.errors import DriftError

Check = tuple[str, Callable[[], str | None]]
"""A name, and a look that returns what it saw, raises DriftError for a problem, or Noted."""


class Noted(Exception):  # noqa: N818
    """No problem: what could not be looked at here and why, or what is not here and not needed."""


@dataclass(frozen=True)
class Finding:
    """One check's outcome; `detail` says what was found, for a problem with its remedy."""

    check: str
    state: Literal["passed", "problem", "note"]
    detail: str

    @property
    def is_problem(self) -> bool:
        return self.state == "problem"


def find(check: str, look: Callable[[], str | None]) -> Finding:
    """Make one check: ``look`` returns what it saw, raises DriftError for a problem or Noted."""
    try:
        return Finding(check, "passed", look() or "")
    except Noted as reason:
        return Finding(check, "note", str(reason))
    except DriftError as error:
        return Finding(check, "problem", " ".join(str(error).split()))


def optional(look: Callable[[], str | None]) -> str | None:
    """A check of something that is not needed: its problem is only noted."""
    try:
        return look()
    except DriftError as error:
        raise Noted(str(error)) from error
