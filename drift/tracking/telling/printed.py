"""What a step prints, kept in a file too: on a cluster its pod, and with it the log, is soon gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

CLOSING_SECONDS = 5.0
"""How long a process that the step has left behind may keep the log open."""


@contextlib.contextmanager
def printed(path: Path) -> Iterator[None]:
    """Whatever this process and its children print in the block goes to `path` too; complete when the block is over.

    Without the program `tee` the block runs all the same, and there is no file.
    """
    _flush()
    try:
        tee = subprocess.Popen(["tee", str(path)], stdin=subprocess.PIPE, start_new_session=True)
    except OSError:
        yield
        return
    assert tee.stdin is not None
    before = {number: os.dup(number) for number in (1, 2)}
    for number in before:
        os.dup2(tee.stdin.fileno(), number)
    cause = ""
    try:
        yield
    except BaseException:  # printed by whoever catches it, when the file is closed already
        cause = traceback.format_exc()
        raise
    finally:
        _flush()
        for number, held in before.items():
            os.dup2(held, number)
            os.close(held)
        tee.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            tee.wait(CLOSING_SECONDS)
        if cause:
            with path.open("a", encoding="utf-8") as file:
                file.write(cause)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
