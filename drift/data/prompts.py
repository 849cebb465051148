"""The user's turn: a template filled with a problem and its options."""

from __future__ import annotations

from typing import Any

from drift.errors import ConfigError


def user_text(template: str, problem: dict[str, Any], key: str) -> str:
    """``template`` with ``{problem}`` replaced by the question, and by its options where it does not show them.

    Other braces are doubled in a template. Raises ConfigError, naming ``key``, if it does not fill.
    """
    try:
        return template.format(problem=_with_options(problem["problem"], problem["choices"] or []))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{key}: only {{problem}} is replaced, other braces are written double, as in \\boxed{{{{}}}} "
            f"({type(error).__name__}: {error})"
        ) from error


def _with_options(question: str, choices: list[str]) -> str:
    if all(choice in question for choice in choices):
        return question
    options = [f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(choices)]
    return "\n".join([question, *options])
