"""Room on the disk of a training: what it will take, and what happens where there is none."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from drift.config.train import KEPT_CHECKPOINTS
from drift.ground.disk import full_disk_said
from drift.ground.errors import DiskError, UnavailableError
from drift.ground.patience import patiently
from drift.training.safety.checkpoints import saved

ROOM_SECONDS = 300.0
"""How long a trained model waits for room: it is in memory alone, and the other ranks wait ten minutes at most."""


def checkpoint_bytes(weights: int, trained: int, *, masters_elsewhere: bool = False) -> int:
    """Bytes of a checkpoint with ``weights``, in float32, and Adam's two moments of those ``trained``.

    ``masters_elsewhere``: DeepSpeed's in bf16, which has the weights twice in 16 bits, and float32 masters.
    """
    return 4 * weights + (12 if masters_elsewhere else 8) * trained


def require_room(folder: Path, *, model: int, checkpoint: int, steps: int, save_steps: int | None) -> None:
    """Raise DiskError unless the disk of ``folder`` has room for the ``model`` and the checkpoints kept at once.

    ``model`` and ``checkpoint`` in bytes. One more checkpoint than is kept exists while it is written; those that are
    there already have their room.
    """
    most = min(KEPT_CHECKPOINTS + 1, math.ceil(steps / save_steps)) if save_steps else 0
    wanted = model + max(0, most - len(saved(folder))) * checkpoint
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise DiskError(
            f"{folder}: {_megabytes(free)} MB are free, and the training writes {_megabytes(wanted)} MB (a model, and "
            f"{most} checkpoints at once); make room, or choose another --out"
        )


@contextlib.contextmanager
def writing(checkpoint: Path) -> Iterator[None]:
    """Raise DiskError where the block finds the disk full; what it has written of ``checkpoint`` is removed."""
    try:
        with full_disk_said(checkpoint):
            yield
    except DiskError as error:
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise DiskError(
            f"{checkpoint}: the disk is full; make room, and the same command goes on from the checkpoint before"
        ) from error


def when_there_is_room(write: Callable[[], None], folder: Path) -> None:
    """``write`` a trained model's files into ``folder``; on a full disk again and again, until somebody makes room.

    Raises DiskError after `ROOM_SECONDS`.
    """

    def once() -> None:
        try:
            with full_disk_said(folder):
                write()
        except DiskError as error:
            for half in folder.glob("*.safetensors"):
                half.unlink()
            raise UnavailableError(f"{folder}: the disk is full") from error

    try:
        patiently(once, ROOM_SECONDS, what="saving the trained model")
    except UnavailableError as error:
        raise DiskError(
            f"{error}, and nobody made room; make some, and the same command goes on from its last checkpoint, if "
            "train.save_steps had it save any"
        ) from error.__cause__


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}"
