"""Numbers of a step at work, in its journal while it works, with the time at which they were true.

Whichever process of the step has them appends them by itself, in batches; who passes the journal on to MLflow is not
its business. Outside a step of a pipeline nothing is told.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drift.ground.errors import PipelineError
from drift.tracking.telling.journal import append, make_event, read

log = logging.getLogger(__name__)

LIVE = "DRIFT_LIVE"
"""Variable: the journal of the step at work and whose numbers they are, as JSON; what a step starts inherits it."""
BATCH_SECONDS = 5.0

Point = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970, step."""


@contextlib.contextmanager
def telling(folder: Path, key: str, step: str, arm: str) -> Iterator[None]:
    """While the block runs, what this process and those it starts tell goes into the journal in `folder`."""
    before = os.environ.get(LIVE)
    os.environ[LIVE] = json.dumps({"folder": str(folder), "key": key, "step": step, "arm": arm})
    try:
        yield
    finally:
        os.environ.pop(LIVE) if before is None else os.environ.update({LIVE: before})


class Live:
    """What one process tells, a batch every `every` seconds; what is told last needs `flush`."""

    def __init__(self, every: float = BATCH_SECONDS) -> None:
        said = os.environ.get(LIVE)
        self._whose: dict[str, str] | None = json.loads(said) if said else None
        self._every, self._flushed = every, -math.inf  # the monotonic clock may begin at boot
        self._points: list[Point] = []

    def tell(self, numbers: Mapping[str, float], step: int, at: float | None = None) -> None:
        """Numbers of now, or of `at`, in seconds since 1970."""
        stamp = milliseconds(time.time() if at is None else at)
        self.pass_on((name, float(value), stamp, step) for name, value in numbers.items())

    def pass_on(self, points: Iterable[Point]) -> None:
        """Points that another process has told."""
        if self._whose is None:
            return
        self._points += points
        if time.monotonic() - self._flushed >= self._every:
            self.flush()

    def flush(self) -> None:
        """Into the journal with what there is."""
        self._flushed = time.monotonic()
        if self._whose is None or not self._points:
            return
        whose = {name: self._whose[name] for name in ("key", "step", "arm")}
        event = make_event(**whose, event="metrics", metrics=self._points, live=True)
        try:
            append(Path(self._whose["folder"]), event)
        except PipelineError as error:  # they wait: a full disk may have room again, and is no fault of a training's
            log.warning("%s", error)
        else:
            self._points = []


def told(folder: Path, key: str) -> set[tuple[str, int, int]]:
    """Name, milliseconds and step of every point that the step has told while it worked."""
    live = (event for event, _ in read(folder) if event.get("live") and event["key"] == key)
    return {(name, stamp, step) for event in live for name, _, stamp, step in event["metrics"]}


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row of a training's history, by their names in MLflow."""
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name not in NO_CURVE}
    known = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    return {name if "/" in name else f"train/{name}": value for name, value in known.items()}


NO_CURVE = ("step", "time")


def milliseconds(seconds: float) -> int:
    """As MLflow wants a time."""
    return round(seconds * 1000)
