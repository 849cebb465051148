"""Checkpoints that can be trusted: a marker says what every file was, and is looked at before one is gone on from.

checkpoint-8/complete      {"files": {"optimizer.pt": {"bytes": 1138, "sha256": "9f0c…"}, …}}
damaged-checkpoint-8/      one whose files are not those of its marker any more
"""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from drift.ground.artifacts import read_json, write_json
from drift.ground.errors import DataError
from drift.ground.hashes import read_sha256

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
COMPLETE = "complete"
"""The marker's name; a checkpoint has it when every rank has written its part."""
DAMAGED = "damaged-"
READERS = 4
"""Files hashed at once: checkpoints are large, and hashing leaves Python's lock."""


def mark(checkpoint: Path) -> None:
    """Write the marker of a checkpoint that every rank has written its part of."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    said = {
        path.relative_to(checkpoint).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(files, _hashes(files), strict=True)
    }
    write_json(checkpoint / COMPLETE, {"files": said})


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a training that makes its model in ``folder``, whole or not, the oldest first."""
    found = (folder / CHECKPOINTS).glob("checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is what its marker says; None if there is none.

    Newer ones are put away, each with a line: removed if it was never finished, set aside if it is damaged.
    """
    newest, every = None, saved(folder)
    while every and newest is None:
        if (fault := fault_of(every[-1])) is None:
            newest = every[-1]
        else:
            _put_away(every.pop(), fault)
            onwards = f"from {every[-1].name}, if it is whole" if every else "at the first step: there is no other"
            logger.warning("the training goes on %s", onwards)
    return newest


def fault_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if every file is as its marker says."""
    if not (checkpoint / COMPLETE).exists():
        return "was not finished"
    try:
        files = read_json(checkpoint / COMPLETE)["files"]
        expected = {checkpoint / name: (int(one["bytes"]), str(one["sha256"])) for name, one in files.items()}
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return f"has a damaged marker '{COMPLETE}'"
    for path, (size, _) in expected.items():
        if not path.is_file():
            return f"lacks {path.relative_to(checkpoint)}"
        if path.stat().st_size != size:
            return f"has {path.stat().st_size} bytes of {path.relative_to(checkpoint)} instead of {size}"
    for path, sha256 in zip(expected, _hashes(list(expected)), strict=True):
        if sha256 != expected[path][1]:
            return f"has other contents of {path.relative_to(checkpoint)} than were saved"
    return None


def _hashes(files: list[Path]) -> list[str]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read_sha256, files))


def _put_away(checkpoint: Path, fault: str) -> None:
    if not (checkpoint / COMPLETE).exists():  # never of use, and large
        shutil.rmtree(checkpoint)
        logger.warning("%s %s and was removed", checkpoint, fault)
        return
    aside = checkpoint.with_name(DAMAGED + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    logger.warning("%s %s and was set aside as %s", checkpoint, fault, aside.name)
