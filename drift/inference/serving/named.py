"""What a person calls a model by: a directory, a hub id, or a version in the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from drift.tracking.models import at_hand
from drift.weights.checkpoints import resolve


@contextlib.contextmanager
def directory(model: str, runs: Path) -> Iterator[Path]:
    """The model's directory as long as the block lasts: itself, the hub's download, or the version's checked files.

    Raises ConfigError, CheckpointError (no such directory or hub id), DataError (no such version, or other contents
    than were registered), ServiceError.
    """
    if found := at_hand.find(model, runs):
        with at_hand.directory_of(found) as folder:
            yield folder
        return
    yield resolve(model)
