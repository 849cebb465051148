"""The user's turn: a template filled with a problem and its options."""

from __future__ import annotations

from typing import Any


def user_text(template: str, problem: dict[str, Any]) -> str:
    """``template`` with ``{problem}`` replaced by the question, and by its options where it does not show them."""
    return template.format(problem=_with_options(problem["problem"], problem["choices"] or []))


def _with_options(question: str, choices: list[str]) -> str:
    if all(choice in question for choice in choices):
        return question
    options = [f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(choices)]
    return "\n".join([question, *options])
