"""A full disk, whichever library met it: what it says, on one line."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from drift.ground.errors import DiskError, DriftError, links

FULL = (errno.ENOSPC, errno.EDQUOT)
SAYS = {
    **{os.strerror(number): os.strerror(number) for number in FULL},  # Rust, Arrow, shutil
    "database or disk is full": os.strerror(errno.ENOSPC),  # SQLite
    "PytorchStreamWriter failed writing": "a file could not be written whole, is the disk full?",  # torch
    "unexpected pos ": "a file could not be written whole, is the disk full?",  # torch, when it closes that file
    "No usable temporary directory": "no room for temporary files",  # tempfile
}
"""What libraries say that keep no number of the system's error, and what that is."""


@contextlib.contextmanager
def full_disk_said(place: Path | str) -> Iterator[None]:
    """In the place of an error that comes from a full disk, one of ours that names it. Raises DiskError."""
    try:
        yield
    except DriftError:
        raise
    except Exception as error:
        if reason := full_disk(error):
            raise DiskError(line(error, reason, place)) from error
        raise


def full_disk(error: BaseException) -> str:
    """What of a full disk an error says, or one that led to it; '' if it says nothing of one."""
    return next(filter(None, map(_reason, links(error))), "")


def line(error: BaseException, reason: str, place: Path | str = "the disk") -> str:
    """The one line for a person: where, why, what to do."""
    named = (str(link.filename) for link in links(error) if isinstance(link, OSError) and link.filename)
    return f"{next(named, place)}: {reason}; make room, and start the same command again"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in FULL:
        return os.strerror(error.errno)
    said = str(error)
    return next((reason for words, reason in SAYS.items() if words in said), "")
