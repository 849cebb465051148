"""The journal of a run: what its steps did, as JSON lines in the order it happened.

A step process on this machine only appends a line (importing MLflow costs more than most steps do); the process
that runs the pipeline reads the lines and passes them on to MLflow while the steps work (`Relay`). Every line can be
applied twice without harm, so after a crash the next run goes on from the last position it has noted.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Event = dict[str, Any]

JOURNAL = "events.jsonl"
POSITION = "events.position"
POLL_SECONDS = 0.5
RETRY_SECONDS = 10.0


def step_key(run_id: str, step: str, arm: str) -> str:
    """`<run id>/<step>[/<arm>]`: the same in every attempt."""
    return "/".join(filter(None, [run_id, step, arm]))


def event_of(key: str, step: str, arm: str, event: str, **content: Any) -> Event:
    """An event of now, by this process."""
    return {"key": key, "step": step, "arm": arm, "event": event, "time": time.time(), "pid": os.getpid(), **content}


def append(folder: Path, event: Event) -> None:
    """Append one event to the journal in `folder`, in a single write, so that parallel steps do not mix lines."""
    line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
    descriptor = os.open(folder / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
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
                log.warning("%s: a line was torn by a crash and is left out", path)


def mend(folder: Path) -> None:
    """End a line that a crash has torn, so that the next one starts afresh."""
    path = folder / JOURNAL
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def last_error(folder: Path, key: str) -> str | None:
    """The message with which the step `key` ended last, if it failed."""
    ends = [event for event, _ in read(folder) if event.get("key") == key and event["event"] == "ended"]
    return ends[-1].get("error") if ends else None


class Relay(threading.Thread):
    """Passes the journal of `folder` on to `apply`, in order, until `finish`.

    When `apply` raises, the line is tried again later: tracking that breaks never stops a step.
    """

    def __init__(self, folder: Path, apply: Callable[[Event], None]) -> None:
        super().__init__(name="journal-relay", daemon=True)
        self._folder, self._apply = folder, apply
        self._finishing = threading.Event()
        self._retry_at = 0.0
        note = folder / POSITION
        self._position = int(note.read_text()) if note.exists() else 0

    def run(self) -> None:
        while not self._finishing.wait(POLL_SECONDS):
            if time.monotonic() >= self._retry_at:
                self.deliver()

    def finish(self) -> bool:
        """Pass on what is left; False if something could not be delivered (it stays for the next run)."""
        self._finishing.set()
        self.join()
        return self.deliver()

    def deliver(self) -> bool:
        """Pass on what there is; False if a line was refused."""
        for event, position in read(self._folder, self._position):
            try:
                self._apply(event)
            except Exception as error:  # a broken tracking server has many faces, and none may stop the run
                first = (str(error).splitlines() or [""])[0]
                log.warning("MLflow does not take an event (%s); it is kept in %s", first, self._folder / JOURNAL)
                self._retry_at = time.monotonic() + RETRY_SECONDS
                return False
            self._note(position)
        return True

    def _note(self, position: int) -> None:
        aside = self._folder / (POSITION + ".partial")
        aside.write_text(str(position))
        aside.replace(self._folder / POSITION)
        self._position = position
