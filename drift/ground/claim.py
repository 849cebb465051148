"""Work on a path that outlives its process or pod, such as a Kubernetes claim: found again, held by one, moved out.

    <path>/<kind>/<address>/<content>/    work that is not complete, addressed by all that decides its result
    <path>/<kind>/<address>.lock          who is at it

A step that is started again, in another pod or folder, finds what an earlier one left under the same address.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.ground.artifacts import PARTIAL, staged
from drift.ground.disk import full_disk_said
from drift.ground.errors import DataError, HeldError
from drift.ground.locks import SUFFIX, hold

log = logging.getLogger(__name__)


def address(this: Mapping[str, Any]) -> str:
    """SHA-256 of all that decides a result, which must be JSON."""
    return hashlib.sha256(json.dumps(this, sort_keys=True).encode()).hexdigest()


def replies_folder(checkpoints: str | None, kind: str, this: Mapping[str, Any]) -> Path | None:
    """Where the replies of a model are kept below the path ``checkpoints``; None without one."""
    return Path(checkpoints) / kind / address(this) / "replies" if checkpoints else None


@contextlib.contextmanager
def work_folder(content: Path | None, out: Path, *, leave: Sequence[str] = (), replace: bool = False) -> Iterator[Path]:
    """The folder to work in, as it was left: ``content`` on a claim, or ``<out>.partial`` where that is None.

    It becomes ``out`` when the block ends well, without what matches a pattern of ``leave`` and only serves to go on.
    ``replace`` is `staged`'s. After an exception it stays. Raises DataError if one of the two cannot be written.
    """
    if content is not None:
        with on_claim(content, out, leave=leave, replace=replace) as folder:
            yield folder
        return
    with staged(out, keep_partial=True, replace=replace) as folder:
        yield folder
        for path in [path for pattern in leave for path in folder.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def on_claim(content: Path, out: Path, *, leave: Sequence[str] = (), replace: bool = False) -> Iterator[Path]:
    """The folder ``content`` to work in; copied to ``out`` when the block ends well, but for what ``leave`` matches.

    Its parent, which is named by the work's address, is removed once ``out`` is there: a pod that is lost while it
    copies loses nothing. After an exception it stays, unless the block has removed ``content`` because nothing in it is
    worth going on from. Waits for another that is at the same work. Raises DataError if it cannot be written, or work
    was begun beside ``out``, DiskError if the claim gets full.
    """
    place = content.parent
    _require_nothing_begun(content, out)
    with _alone(place), full_disk_said(place):
        with staged(out, replace=replace) as here:
            content.mkdir(parents=True, exist_ok=True)
            try:
                yield content
            except BaseException:
                if not content.exists():
                    shutil.rmtree(place, ignore_errors=True)
                raise
            shutil.copytree(content, here, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*leave))
        shutil.rmtree(place, ignore_errors=True)


def _require_nothing_begun(content: Path, out: Path) -> None:
    beside = out.with_name(out.name + PARTIAL)
    if beside.is_dir() and any(beside.iterdir()):
        raise DataError(f"{beside}: holds work that was begun without a claim; move it to {content}, or remove it")


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the work at ``place``: a second pod at the same waits, so that two never write one folder."""

    def waiting(error: HeldError) -> None:
        log.warning("%s: another works on the same (%s); waiting for it", place, error.holder)

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = hold(place.with_name(place.name + SUFFIX), waiting)
    except OSError as error:
        raise DataError(f"{place}: cannot be written ({error.strerror}); the claim must be writable") from error
    with lock:
        yield
