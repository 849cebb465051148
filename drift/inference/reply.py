"""What a model wrote, whoever asked it and however."""

from __future__ import annotations

from dataclasses import dataclass


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
