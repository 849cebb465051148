"""What a model wrote, whoever asked it and however."""

from __future__ import annotations

from dataclasses import dataclass

FOR_NOW = {"RateLimitError", "InternalServerError", "APIConnectionError", "APITimeoutError"}
"""Errors of the client openai that say nothing about the request."""


@dataclass(frozen=True)
class Reply:
    """Text, how it ended (`stop` or `length`), and reasoning if a server parted it from the text.

    With ``error`` set nothing usable came; the other fields are then empty.
    """

    text: str = ""
    finish_reason: str | None = None
    reasoning: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None


def for_now(error: str) -> bool:
    """Whether a reply's error may be gone later: the server was overloaded, broken or out of reach."""
    return error.partition(":")[0] in FOR_NOW
