"""Who writes the chains of thought: one protocol, and the choice of who fulfils it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Protocol

from drift.config.data import EndpointTeacher, GenerateConfig, LocalTeacher, ReadyTeacher, VllmTeacher
from drift.data.chains.requests import Answered, Request
from drift.ground.errors import ConfigError


class Teacher(Protocol):
    """Anything that answers requests."""

    batch_size: int
    """Requests that are drawn together. Their composition may decide what is drawn, so it has to be repeatable."""

    def sample(self, requests: Iterable[Request]) -> Generator[Answered, None, None]:
        """A reply per request, in any order; ``requests`` is read as needed. Raises DriftError if none can answer."""
        ...


def open_teacher(config: GenerateConfig, used: tuple[int, int] = (0, 0)) -> Teacher:
    """The teacher that the configuration names; ``used`` are the prompt and completion tokens paid for before.

    Raises CheckpointError, ConfigError or ServiceError.
    """
    if isinstance(config.teacher, LocalTeacher):
        from drift.data.chains.local_teacher import Sampler

        return Sampler(config, config.teacher)
    if isinstance(config.teacher, ReadyTeacher):
        raise ConfigError("generate.teacher.kind: ready chains are not asked for; they are beside their problems")
    return _served(config, config.teacher, used)


def _served(config: GenerateConfig, teacher: EndpointTeacher | VllmTeacher, used: tuple[int, int]) -> Teacher:
    def settings(request: Request) -> dict[str, Any]:
        limits = {"top_p": config.top_p, "max_tokens": config.max_new_tokens}
        return {"temperature": config.temperature, "seed": request.seed, **limits}

    if isinstance(teacher, VllmTeacher):
        from drift.inference.served import Served  # torch, which a server's client does not need

        return Served(teacher, teacher.model, teacher.dtype, "generate.teacher", settings, config.image_max_pixels)
    from drift.inference.endpoint import Endpoint

    endpoint = Endpoint[Request](teacher, teacher.model, "generate.teacher", settings, config.image_max_pixels)
    endpoint.budget.add(*used)
    return endpoint
