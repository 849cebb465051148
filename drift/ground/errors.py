"""Everything a user can get wrong, as one tree. The CLI prints the message on one line and exits 2.

DriftError
├── ConfigError       a key of the configuration: names the dotted key, the value and the remedy
├── DataError         problems, generations, training rows or benchmark tables
├── CheckpointError   a model directory or a tensor in it
│   └── MissingCheckpointError   not here, and not to be had from the hub
├── PriorError        Δ does not fit the model, or nothing of it could be bound
├── HeldError         another process works on the same output, run or training
├── DiskError         no room on a disk
├── ServiceError      an endpoint or MLflow server that does not answer, or refuses
│   └── UnavailableError   it may answer when asked again later
└── PipelineError     a step of a pipeline run that failed, or was silently left out
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM has ended."""


class DriftError(Exception):
    """Root of all errors that are the input's fault and not a bug."""


class ConfigError(DriftError):
    """A configuration key is unknown, of the wrong type, or contradicts another."""


class DataError(DriftError):
    """A data file is missing, empty, lacks a column or holds rows that cannot be used."""


class CheckpointError(DriftError):
    """A model directory is missing, broken, or its tensors do not pair with another's."""


class MissingCheckpointError(CheckpointError):
    """A model is not here, and the hub does not give it."""


class PriorError(DriftError):
    """The prior Δ does not match the model it should guide."""


class HeldError(DriftError):
    """Another process works on the same; ``holder`` says which and since when."""

    def __init__(self, message: str, holder: object = None) -> None:
        super().__init__(message)
        self.holder = str(holder or "another process")


class DiskError(DriftError):
    """A disk, or what a user may have of it, is full."""


class ServiceError(DriftError):
    """A server the run depends on cannot be reached or refuses."""


class UnavailableError(ServiceError):
    """A server that may answer when it is asked again later."""


class PipelineError(DriftError):
    """A pipeline step failed, or did not run although it should have."""


def links(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def first_line(error: BaseException | str) -> str:
    """The first line of what an error says; its class where it says nothing."""
    name = "" if isinstance(error, str) else type(error).__name__
    return (str(error).strip().splitlines() or [name])[0]


def cause(error: BaseException) -> str:
    """`Class: first line` of an error of a library, at most 300 characters, for the brackets of an error of ours."""
    return f"{type(error).__name__}: {first_line(error)}"[:300]
