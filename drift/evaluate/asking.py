"""A person's question to a model, as an evaluation asks: its engine, the checkpoint's chat template, its limits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.collect import sampling
from drift.ground.errors import ConfigError, DataError, ServiceError
from drift.inference.images import decode_image
from drift.inference.placeholders import PLACEHOLDER, places
from drift.inference.reply import Reply
from drift.inference.turns import Turn
from drift.verdicts.extract import split_thinking

Ask = Callable[[Turn], Reply]

NO_BENCHMARK: dict[str, Any] = {"data": ".", "benchmarks": {"none": {"role": "reasoning"}}}
"""What the section `evaluate` must have and a single question does not need."""


@dataclass(frozen=True)
class Answer:
    """What a model answered, and its thinking before that, if there was any."""

    model: str
    thinking: str | None
    answer: str
    """Empty if the thinking did not end."""
    seconds: float
    """From the question to the last token; loading is not in it."""
    tokens: int | None
    """That the model wrote, its thinking included; None if a server does not say."""
    finish_reason: str | None
    """`stop`, or `length` if it was cut at `max_new_tokens`."""


class Dialogue:
    """One model, and what was said so far. Of earlier answers it is shown what followed the thinking."""

    def __init__(self, model: str, ask: Ask, instruction: str | None = None) -> None:
        self.model, self._ask, self._instruction = model, ask, instruction
        self._before: tuple[tuple[Turn, str], ...] = ()

    def ask(self, question: str, images: Sequence[bytes]) -> Answer:
        """Raises ServiceError if a server gives no reply, CheckpointError for broken logits; nothing is then added."""
        text = f"{question}\n{self._instruction}" if self._instruction else question
        started = time.monotonic()
        reply = self._ask(Turn(text, list(images), self._before))
        seconds = time.monotonic() - started
        if reply.error is not None:
            raise ServiceError(f"{self.model}: no answer ({reply.error})")
        thinking, rest, _ = split_thinking(reply.text)
        self._before = (*self._before, (Turn(text, list(images)), rest))
        return Answer(
            self.model, reply.reasoning or thinking, rest, seconds, reply.completion_tokens, reply.finish_reason
        )

    def forget(self) -> None:
        """Begin anew."""
        self._before = ()


@contextlib.contextmanager
def dialogue(config: EvaluateConfig, model: str, runs: Path) -> Iterator[Dialogue]:
    """A dialogue with a model as long as the block lasts: a directory, a hub id or a registered version, and of a
    server's (`config.endpoint`) its name there.

    Raises ConfigError, CheckpointError, DataError or ServiceError if it is not there, not whole, or does not load.
    """
    if config.endpoint is not None:
        yield Dialogue(model, _at_server(config, model), config.instruction)
        return
    from drift.inference.serving.named import directory
    from drift.tracking.models import at_hand

    with directory(model, at_hand.find(model, runs)) as folder:
        yield Dialogue(model, _here(config, folder), config.instruction)


def _here(config: EvaluateConfig, folder: Path) -> Ask:
    from drift.evaluate.answering import open_model  # torch and transformers, which a server's client does not need
    from drift.inference.draws import Draws

    opened, temperature = open_model(folder, config), config.temperature

    def ask(turn: Turn) -> Reply:
        (reply,) = opened.replies([turn], draws=Draws(temperature, [config.seed]) if temperature else None)
        return reply

    return ask


def _at_server(config: EvaluateConfig, model: str) -> Ask:
    from drift.inference.endpoint import Endpoint

    assert config.endpoint is not None
    settings = sampling(config, config.temperature or 0.0, config.seed)
    pixels = config.image_max_pixels, config.image_min_pixels
    endpoint = Endpoint[Turn](config.endpoint, model, "evaluate.endpoint", lambda turn: settings, *pixels)

    def ask(turn: Turn) -> Reply:
        with contextlib.closing(endpoint.sample([turn])) as answered:
            ((_, reply),) = answered
        return reply

    return ask


def read_images(paths: Sequence[Path]) -> list[bytes]:
    """Images as they lie on disk. Raises DataError naming the one that is missing or does not decode."""
    images = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such image file; give the path of a PNG, JPEG or other picture")
        decode_image(path, str(path))
        images.append(path.read_bytes())
    return images


def require_places(question: str, images: Sequence[bytes]) -> None:
    """Raise ConfigError if a question is empty, or names other places for images than there are images."""
    if not question.strip():
        raise ConfigError("QUESTION: is empty; ask something")
    if (named := places(question)) and named != len(images):
        raise ConfigError(
            f"QUESTION: {named} times {PLACEHOLDER}, but {len(images)} images; give as many with --image, or leave "
            f"{PLACEHOLDER} out: images then stand before the text"
        )
