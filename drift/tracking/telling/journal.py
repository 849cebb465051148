"""The journal of a run: what its steps did, as JSON lines in the order it happened.

A step process only appends a line (importing MLflow costs more than most steps do, and MLflow may be away). On this
machine the process that runs the pipeline passes the lines on while the steps work, on a cluster the step itself, from
a journal of its own (`delivery`). Every line can be applied twice without harm.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drift.ground.errors import PipelineError

log = logging.getLogger(__name__)

Event = dict[str, Any]

JOURNAL = "events.jsonl"


def step_key(run_id: str, step: str, arm: str) -> str:
    """`<run id>/<step>[/<arm>]`: the same in every attempt."""
    return "/".join(filter(None, [run_id, step, arm]))


def make_event(key: str, step: str, arm: str, event: str, **content: Any) -> Event:
    """An event of now; `step` is `pipeline` for what the whole run does."""
    return {"key": key, "step": step, "arm": arm, "event": event, "time": time.time(), "pid": os.getpid(), **content}


def append(folder: Path, event: Event) -> None:
    """Append one event to the journal in `folder`, in a single write, so that parallel steps do not mix lines.

    A line that a crash or a full disk has torn is ended first. Raises PipelineError where it cannot be written.
    """
    line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
    try:
        _write(folder / JOURNAL, line)
    except OSError as error:
        raise PipelineError(f"{folder / JOURNAL}: cannot be written ({error.strerror}); make room for it") from error


def _write(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        whole = b"\n" + line if torn else line
        if os.write(descriptor, whole) < len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def read(folder: Path, position: int = 0) -> Iterator[tuple[Event, int]]:
    """Whole lines from `position` (bytes) on, each with the position behind it. A torn line is passed over."""
    path = folder / JOURNAL
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            try:
                yield json.loads(line), position
            except ValueError:
                log.warning("%s: a line was torn, by a crash or a full disk, and is left out", path)


def end(folder: Path) -> int:
    """The position behind all that is in the journal now."""
    path = folder / JOURNAL
    return path.stat().st_size if path.exists() else 0


def last_error(folder: Path, key: str, position: int = 0) -> str | None:
    """The message with which the step `key` ended last, from `position` on, if it failed."""
    ends = [event for event, _ in read(folder, position) if event.get("key") == key and event["event"] == "ended"]
    return ends[-1].get("error") if ends else None
