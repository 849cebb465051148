"""How long MLflow's client waits for an answer: the user's own settings first, else by what is asked.

What a step says of itself must not hold anything up, and is told again later; a file of gigabytes takes its time.
MLflow reads both settings from the environment at every request, whatever thread makes it: a limit holds while its
block runs, and of several at once the longest.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

TIMEOUT, RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
OURS = "DRIFT_MLFLOW_LIMITS"
"""Which of the two are ours, so that a process that inherits them does not take them for the user's."""
BYTES_PER_SECOND = 1_000_000
"""That a slow way to a bucket takes at least."""


@dataclass(frozen=True, order=True)
class Limit:
    """Seconds until an answer is there, and how often the client asks again by itself."""

    seconds: int
    retries: int


NUMBERS = Limit(20, 0)
"""Metrics, parameters, tags, statuses: whoever tells them tries again."""
QUESTION = Limit(60, 2)
"""All else: MLflow's own 7 retries of 120 s would take a quarter of an hour to say that a server is away."""
FILE = Limit(300, 2)
MODEL = Limit(3600, 2)
"""A server that passes a file on to its bucket answers when it is there, or sends the first byte when it has it all."""

_lock = threading.Lock()
_at_work: list[Limit] = []


def begin() -> None:
    """What this process asks from now on waits as `QUESTION` says, where the user did not say otherwise."""
    with _lock:
        _apply()


@contextlib.contextmanager
def limit(wanted: Limit) -> Iterator[None]:
    """`wanted` for as long as the block lasts, where the user did not say otherwise."""
    with _lock:
        _at_work.append(wanted)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _at_work.remove(wanted)
            _apply()


def for_file(size: int) -> Limit:
    """For a file of `size` bytes."""
    return Limit(max(FILE.seconds, size // BYTES_PER_SECOND), FILE.retries)


def own_settings() -> dict[str, str]:
    """What the user has set, of both."""
    ours = _ours()
    return {name: os.environ[name] for name in (TIMEOUT, RETRIES) if name in os.environ and name not in ours}


def _ours() -> set[str]:
    return set(filter(None, os.environ.get(OURS, "").split(",")))


def _apply() -> None:
    now = max(_at_work, default=QUESTION)
    theirs = own_settings()
    values = {TIMEOUT: str(now.seconds), RETRIES: str(now.retries)}
    ours = {name: value for name, value in values.items() if name not in theirs}
    os.environ.update(ours, **{OURS: ",".join(ours)})
