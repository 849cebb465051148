"""SHA-256 of files, of which large ones are remembered from one command to the next.

<cache>/drift/hashes/<sha256 of the path>.json      {"file": "/models/expert/model.safetensors", "stamp": […], …}

<cache> is $XDG_CACHE_HOME, by default ~/.cache. A hash holds while the file's size, both its times and its inode do;
the second time cannot be set back by hand. Each file has an entry of its own, written aside and renamed, so that
processes do not disturb each other; one that is broken, or cannot be written, costs reading the file again. All of it
can be removed at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path

from drift.ground.progress import Bar

LARGE = 1 << 24
"""Bytes from which a hash is worth an entry: fewer are read in a hundredth of a second."""
LONG = 1 << 30
"""Bytes from which reading is shown."""
SETTLED_SECONDS = 2.0
"""Since the last change: a file system whose clock is coarse might give a next one the same time."""
_SHA256 = re.compile(r"[0-9a-f]{64}")

Stamp = tuple[int, int, int, int]
"""Size, time of the contents, time of the inode (both in ns), and inode."""


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's contents, as remembered if nothing of it has changed, else read. Raises OSError."""
    real = file.resolve()
    return _remembered(real, stamp_of(real.stat()))


def read_sha256(file: Path) -> str:
    """SHA-256 of a file's contents as they are on the disk now: for what looks for damage. Raises OSError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size < LONG:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        with Bar(f"hash of {file.name}", size, unit="B") as bar:
            while piece := stream.read(LARGE):
                digest.update(piece)
                bar.advance(len(piece))
    return digest.hexdigest()


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells a changed file."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@functools.lru_cache(maxsize=4096)
def _remembered(real: Path, stamp: Stamp) -> str:
    entry = _entry(real) if stamp[0] >= LARGE else None
    known = _known(entry, real, stamp) if entry else None
    if known:
        return known
    found = read_sha256(real)
    if entry:
        _keep(entry, real, stamp, found)
    return found


def _entry(real: Path) -> Path | None:
    """Where the hash of a file is kept; None without a folder for it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 - Path's raises
    name = hashlib.sha256(os.fsencode(real)).hexdigest()
    return cache / "drift" / "hashes" / f"{name}.json" if cache.is_absolute() else None


def _known(entry: Path, real: Path, stamp: Stamp) -> str | None:
    """The hash of an entry that says all that is expected of it."""
    try:
        said = json.loads(entry.read_text(encoding="utf-8"))
        known = str(said["sha256"])
        fits = (said["file"], said["stamp"]) == (str(real), list(stamp))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if fits and _SHA256.fullmatch(known) else None


def _is_settled(real: Path, stamp: Stamp) -> bool:
    """Whether the file is what it was before it was read, and has been for a while."""
    changed = max(stamp[1:3]) / 1e9
    return time.time() - changed > SETTLED_SECONDS and stamp_of(real.stat()) == stamp


def _keep(entry: Path, real: Path, stamp: Stamp, sha256: str) -> None:
    """Write an entry if nothing changed the file meanwhile, and remove those whose files are gone.

    A cache that cannot be written is none.
    """
    said = json.dumps({"file": str(real), "stamp": stamp, "sha256": sha256})
    with contextlib.suppress(OSError):
        if not _is_settled(real, stamp):
            return
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _forget_gone(entry.parent)
        number, aside = tempfile.mkstemp(dir=entry.parent, prefix=".")
        try:
            with os.fdopen(number, "w", encoding="utf-8") as stream:
                stream.write(said)
            Path(aside).replace(entry)
        finally:
            Path(aside).unlink(missing_ok=True)


def _forget_gone(folder: Path) -> None:
    for entry in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if not Path(json.loads(entry.read_text(encoding="utf-8"))["file"]).exists():
                entry.unlink()
