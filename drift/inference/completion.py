"""A chat completion, read from the bytes that a server sent, whatever they are."""

from __future__ import annotations

import json
from typing import Any

from drift.inference.reply import Reply

SHOWN = 100
"""Characters of what a server sent in place of a completion."""


class MalformedReplyError(Exception):
    """A server answered 200 with what is no completion; ``page`` if it does not even pretend to be one."""

    def __init__(self, message: str, *, page: bool = False) -> None:
        super().__init__(message)
        self.page = page


def read_completion(content: bytes) -> Reply:
    """The first choice. An answer without text is empty; of a list of blocks, the text is taken.

    Raises MalformedReplyError.
    """
    body = _body(content)
    choice = _choice(body)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise MalformedReplyError("the choice has no message")
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    usage, finish_reason = body.get("usage"), choice.get("finish_reason")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        text=_text(message.get("content")),
        reasoning=(_text(reasoning) or None) if isinstance(reasoning, str | list) else None,
        finish_reason=finish_reason if finish_reason in ("stop", "length") else None,
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
    )


def _body(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise MalformedReplyError(f"no JSON: {content[:SHOWN]!r}", page=True) from None
    if not isinstance(body, dict):
        raise MalformedReplyError(f"no completion: {content[:SHOWN]!r}", page=True)
    return body


def _choice(body: dict[str, Any]) -> dict[str, Any]:
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    if body.get("error"):
        raise MalformedReplyError(f"an error with status 200: {str(body['error'])[:SHOWN]}")
    raise MalformedReplyError(f"no choice: {str(body)[:SHOWN]}", page="choices" not in body)


def _text(content: Any) -> str:
    """Without lone surrogates, which JSON can carry and files cannot."""
    if content is None:
        return ""
    if isinstance(content, list):
        content = "".join(_block(block) for block in content)
    if not isinstance(content, str):
        raise MalformedReplyError(f"the content is no text: {str(content)[:SHOWN]}")
    return content.encode("utf-8", "replace").decode()


def _block(block: Any) -> str:
    """The text of a block; one of another kind has none."""
    text = block.get("text") if isinstance(block, dict) else block
    if text is not None and not isinstance(text, str):
        raise MalformedReplyError(f"a block's text is none: {str(text)[:SHOWN]}")
    return text or ""


def _count(tokens: Any) -> int | None:
    return tokens if isinstance(tokens, int) and tokens >= 0 else None
