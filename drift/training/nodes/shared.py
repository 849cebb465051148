"""A folder that outlives a pod and that several nodes see: what they read is copied there, what they make fetched.

    <claim>/inputs/<sha256 of contents>     what is trained on; all arms and runs share it
    <claim>/trainings/<sha256>/             one training: job.json, model/ with its checkpoints, result.json
    <claim>/trainings/<sha256>.lock         who works on it (`drift.ground.claim`)

A training is addressed by everything that decides its weights, so a new pod finds the checkpoints of one that was lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drift.config.nodes import NODES, SHARED, Nodes
from drift.config.section import from_json
from drift.ground.artifacts import content_sha256
from drift.ground.claim import address
from drift.ground.errors import DataError

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


def model_folder(claim: Path, this: Mapping[str, Any]) -> Path:
    """Where a training makes its model; ``this`` is all that decides its weights."""
    return claim / "trainings" / address(this) / MODEL


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
