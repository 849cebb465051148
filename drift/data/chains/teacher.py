"""Who writes the chains of thought: one protocol, and the choice of who fulfils it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Protocol

from drift.config.data import EndpointTeacher, GenerateConfig, LocalTeacher, ReadyTeacher
from drift.data.chains.requests import Answered, Request
from drift.ground.errors import ConfigError


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
        from drift.data.chains.local_teacher import Sampler

        return Sampler(config, config.teacher)
    if isinstance(config.teacher, ReadyTeacher):
        raise ConfigError("generate.teacher.kind: ready chains are not asked for; they are beside their problems")
    return _endpoint(config, config.teacher)


def _endpoint(config: GenerateConfig, teacher: EndpointTeacher) -> Teacher:
    from drift.inference.endpoint import Endpoint

    def settings(request: Request) -> dict[str, Any]:
        limits = {"top_p": config.top_p, "max_tokens": config.max_new_tokens}
        return {"temperature": config.temperature, "seed": request.seed, **limits}

    return Endpoint(teacher, teacher.model, "generate.teacher", settings, config.image_max_pixels)
