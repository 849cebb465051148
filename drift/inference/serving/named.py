"""What a person calls a model by: a directory, a hub id, or a version in the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from drift.tracking.models import at_hand
from drift.weights.storage.checkpoints import resolve


@contextlib.contextmanager
def directory(model: str, found: at_hand.AtHand | None) -> Iterator[Path]:
    """The model's directory as long as the block lasts: itself, the hub's download, or the files of ``found``, which is
    the version that it names, if it names one.

    Raises CheckpointError (no such directory or hub id), DataError (other contents than were registered), ServiceError.
    """
    if found:
        with at_hand.directory_of(found) as folder:
            yield folder
        return
    yield resolve(model)
