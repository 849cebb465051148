"""A folder that outlives a pod and that several nodes see: what they read is copied there, what they make fetched.

    <claim>/inputs/<sha256 of contents>     what is trained on; all arms and runs share it
    <claim>/trainings/<sha256>/             one training: job.json, model/ with its checkpoints, result.json
    <claim>/trainings/<sha256>.lock         who works on it

A training is addressed by everything that decides its weights, so a new pod finds the checkpoints of one that was lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drift.config.nodes import NODES, SHARED, Nodes
from drift.config.section import from_json
from drift.ground.artifacts import content_sha256, staged
from drift.ground.disk import full_disk_said
from drift.ground.errors import DataError, HeldError
from drift.ground.locks import hold

log = logging.getLogger(__name__)

MODEL = "model"
RESULT = "result.json"
"""What `fit` returned on the first rank; a training without it is not complete, whatever else says so."""
JOB = "job.json"


def shared_folder() -> Path | None:
    """Where this pod sees the claim; None if it has none."""
    return Path(os.environ[SHARED]) if os.environ.get(SHARED) else None


def cluster_of_environment() -> Nodes | None:
    """The nodes that a training of this pod runs on; None for this machine alone. Raises ConfigError."""
    return from_json(Nodes, os.environ[NODES]) if os.environ.get(NODES) else None


@contextlib.contextmanager
def on_claim(claim: Path, this: Mapping[str, Any], out: Path, *, keep_partial: bool) -> Iterator[Path]:
    """A folder on the claim to write a model into; copied to ``out`` when the block ends well, and removed there.

    ``this`` is all that decides the weights, and gives the folder its name. After an exception it stays only with
    ``keep_partial``. Waits for another pod that works on the same. Raises DataError if it cannot be written,
    DiskError if the claim gets full.
    """
    place = claim / "trainings" / _sha256(this)
    with staged(out) as here, _alone(place), full_disk_said(place):
        (place / MODEL).mkdir(parents=True, exist_ok=True)
        try:
            yield place / MODEL
        except BaseException:
            if not keep_partial:
                shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.copytree(place / MODEL, here, dirs_exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)


def brought(claim: Path, path: Path, seen: tuple[Path, ...]) -> Path:
    """``path`` where nodes see it: as it is under a folder of ``seen``, else copied to the claim once, by contents."""
    whole = path.resolve()
    if any(whole.is_relative_to(folder) for folder in (claim, *seen)):
        return whole
    there = claim / "inputs" / content_sha256(whole) / whole.name
    if there.exists():
        os.utime(there.parent)  # so that an administrator can tell what is still used
        return there
    log.info("%s: copied to %s", path, there)
    _copy(whole, there)
    return there


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, complete or not at all; a copy that another pod finished first is as good."""
    aside = target.parent.with_name(f"{target.parent.name}.{uuid.uuid4().hex}")
    try:
        aside.mkdir(parents=True)
        copied = aside / target.name
        shutil.copytree(source, copied) if source.is_dir() else shutil.copyfile(source, copied)
        with contextlib.suppress(OSError):  # there already
            aside.rename(target.parent)
    except (OSError, shutil.Error) as error:
        raise DataError(f"{source}: cannot be copied to {target} ({error}); is the claim full?") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold a training: a second pod of the same waits, so that two never write one folder."""

    def waiting(error: HeldError) -> None:
        log.warning("%s: another pod works on the same training (%s); waiting for it", place, error.holder)

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = hold(place.with_name(place.name + ".lock"), waiting)
    except OSError as error:
        raise DataError(f"{place}: cannot be written ({error.strerror}); the claim must be writable") from error
    with lock:
        yield


def _sha256(this: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(this, sort_keys=True).encode()).hexdigest()
