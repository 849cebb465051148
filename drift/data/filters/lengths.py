"""The length of a chain in the student's tokens, counted as its training counts (`drift.data.processed`)."""

from __future__ import annotations

import logging
from pathlib import Path

from drift.config.data import CurateConfig, LengthConfig
from drift.data.processed import shown, token_count
from drift.data.rows import Chat, media_tokens, read_row
from drift.data.tables import Row
from drift.ground.errors import ConfigError, DataError
from drift.weights.modeling import load_processor
from drift.weights.storage.checkpoints import resolve

logger = logging.getLogger(__name__)


class Lengths:
    """The filter `length`: `too_long`, or `unusable` for a row that a training would refuse to start with.

    Raises ConfigError without a processor, CheckpointError if it does not load.
    """

    def __init__(self, config: LengthConfig) -> None:
        if config.processor is None:
            raise ConfigError("curate.length.processor: required, but not set; give the student's directory or hub id")
        self._config = config
        self._processor = load_processor(resolve(config.processor, weights=False))
        self._chat, self._tokens = Chat(self._processor), media_tokens(self._processor)
        self._told = False

    def reason(self, row: Row) -> str | None:
        """Why a row of the training set (`id`, `messages`, `images`) is left out; None if it is not."""
        try:
            return "too_long" if self.count(row) > self._config.max_tokens else None
        except DataError as error:
            if not self._told:
                logger.warning("curate.length: %s; it and rows like it are left out", error)
            self._told = True
            return "unusable"

    def count(self, row: Row) -> int:
        """Tokens of the chat, its images and its answer. Raises DataError: a training would refuse the row."""
        try:
            read = read_row(row, row["id"], Path(), self._tokens)
        except ValueError as error:
            raise DataError(f"row {row['id']}: {error}") from error
        return token_count(self._processor, shown(read, self._chat, self._config.image_max_pixels))


def lengths(config: CurateConfig) -> Lengths | None:
    """The filter, if it is asked for."""
    return Lengths(config.length) if config.length else None
