"""Who writes the chains of thought: one protocol, and the choice of who fulfils it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from drift.config import GenerateConfig, LocalTeacher


@dataclass(frozen=True)
class Request:
    """One sample to draw: number ``sample`` for problem ``id``, from the user's ``text`` and encoded images."""

    id: str
    sample: int
    text: str
    images: list[bytes] = field(repr=False)
    seed: int


@dataclass(frozen=True)
class Reply:
    """What came back: text, reasoning if the server parted it from the text, and how it ended.

    With ``error`` set nothing usable came; the other fields are then empty.
    """

    text: str = ""
    reasoning: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None


Answered = tuple[Request, Reply]


class Teacher(Protocol):
    """Anything that answers requests."""

    batch_size: int
    """Requests that are drawn together. Their composition may decide what is drawn, so it has to be repeatable."""

    def sample(self, requests: Iterable[Request]) -> Generator[Answered, None, None]:
        """A reply per request, in any order; ``requests`` is read as needed. Raises DriftError if none can answer."""
        ...


def open_teacher(config: GenerateConfig) -> Teacher:
    """The teacher that the configuration names. Raises CheckpointError, ConfigError or ServiceError."""
    if isinstance(config.teacher, LocalTeacher):
        from drift.data.local_teacher import LocalModel

        return LocalModel(config, config.teacher)
    from drift.data.endpoint_teacher import Endpoint

    return Endpoint(config, config.teacher)


def sample_seed(seed: int, *parts: object) -> int:
    """31 bits from SHA-256 over the run's seed and what is drawn: equal for equal keys, whatever ran before."""
    digest = hashlib.sha256("/".join(map(str, [seed, *parts])).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
