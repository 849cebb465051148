"""Who writes the chains of thought: one protocol, and the choice of who fulfils it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from drift.config import EndpointTeacher, GenerateConfig, LocalTeacher
from drift.reply import Reply


@dataclass(frozen=True)
class Request:
    """One sample to draw: number ``sample`` for problem ``id``, from the user's ``text`` and encoded images."""

    id: str
    sample: int
    text: str
    images: list[bytes] = field(repr=False)
    seed: int


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
    return _endpoint(config, config.teacher)


def _endpoint(config: GenerateConfig, teacher: EndpointTeacher) -> Teacher:
    from drift.endpoint import Endpoint

    def settings(request: Request) -> dict[str, Any]:
        limits = {"top_p": config.top_p, "max_tokens": config.max_new_tokens}
        return {"temperature": config.temperature, "seed": request.seed, **limits}

    return Endpoint(teacher, teacher.model, "generate.teacher", settings, config.image_max_pixels)


def sample_seed(seed: int, *parts: object) -> int:
    """31 bits from SHA-256 over the run's seed and what is drawn: equal for equal keys, whatever ran before."""
    digest = hashlib.sha256("/".join(map(str, [seed, *parts])).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
