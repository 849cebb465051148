"""A user's turn, and the dialogue before it, as a model is shown them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from drift.inference.images import conversation

Message = dict[str, Any]


class Question(Protocol):
    """A user's turn: the text, and encoded images at its placeholders or before it."""

    @property
    def text(self) -> str: ...

    @property
    def images(self) -> list[bytes]: ...


@dataclass(frozen=True)
class Turn:
    """A question that may go on from others: ``before`` has each of them, with the model's answer to it."""

    text: str
    images: list[bytes] = field(default_factory=list, repr=False)
    before: tuple[tuple[Turn, str], ...] = ()


def messages(asked: Question) -> list[Message]:
    """All turns as chat templates want them: blocks of images and text, by role."""
    earlier = [message for turn, answer in _before(asked) for message in (*_user(turn), _assistant(answer))]
    return [*earlier, *_user(asked)]


def images_of(asked: Question) -> list[bytes]:
    """The images of all turns, in the order of their blocks in `messages`."""
    turns: list[Question] = [*(turn for turn, _ in _before(asked)), asked]
    return [image for turn in turns for image in turn.images]


def _before(asked: Question) -> tuple[tuple[Turn, str], ...]:
    return asked.before if isinstance(asked, Turn) else ()


def _user(asked: Question) -> list[Message]:
    return conversation(asked.text, images=len(asked.images))


def _assistant(answer: str) -> Message:
    return {"role": "assistant", "content": [{"type": "text", "text": answer}]}
