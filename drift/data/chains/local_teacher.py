"""A checkpoint on this machine as teacher: batched sampling, whose draws can be repeated."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any

import torch

from drift.config.data import GenerateConfig, LocalTeacher
from drift.data.chains.requests import Answered, Request, sample_seed
from drift.inference.local import LocalModel
from drift.inference.reply import Reply
from drift.weights.storage.checkpoints import resolve


class Sampler:
    """Samples batch by batch; a batch's draw depends on its requests alone."""

    def __init__(self, config: GenerateConfig, teacher: LocalTeacher) -> None:
        """Raises CheckpointError if the model or its processor does not load."""
        self._seed = config.seed
        self.batch_size = teacher.batch_size
        self._model = LocalModel(
            resolve(teacher.model),
            {"max_new_tokens": config.max_new_tokens, **_sampling(config)},
            dtype=teacher.dtype,
            image_max_pixels=config.image_max_pixels,
            threads=teacher.threads,
            trust_remote_code=teacher.trust_remote_code,
        )

    def sample(self, requests: Iterable[Request]) -> Generator[Answered, None, None]:
        """Replies in the order of the requests."""
        remaining = iter(requests)
        while batch := list(islice(remaining, self.batch_size)):
            yield from zip(batch, self._replies(batch), strict=True)

    def _replies(self, batch: list[Request]) -> list[Reply]:
        keys = [f"{request.id}/{request.sample}" for request in batch]
        with torch.random.fork_rng():
            torch.manual_seed(sample_seed(self._seed, *keys))
            return self._model.replies(batch)


def _sampling(config: GenerateConfig) -> dict[str, Any]:
    if config.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
