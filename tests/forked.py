"""Processes of a test's own, to be killed, raced or asked for their exit code: forked from one that is warm.

An import of torch, transformers and MLflow takes seconds, and proves nothing a second time. Python's fork server makes
the imports once per worker of the tests; what it forks is a process like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from drift.cli.app import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "drift.evaluate.evaluation",
        "drift.training.sft",
        "drift.tracking.runs.tracker",
        "drift.data.selection.curation",
        "drift.gate.decision",
        "drift.ground.drawing",
        "kfp",
        "math_verify",
        "openai",
        "statsmodels.stats.proportion",
    ]
)
NOWHERE = Path(os.devnull)


def begin(
    work: Callable[..., Any], *arguments: Any, out: Path = NOWHERE, err: Path = NOWHERE, **variables: str
) -> ForkServerProcess:
    """``work(*arguments)`` in a process of its own, with the environment of this one and ``variables``."""
    environment = {**os.environ, **variables}
    process = FORKS.Process(target=_alone, args=(work, arguments, (out, err), environment))
    process.start()
    return process


def drift(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`drift ...` to its end: exit code and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = begin(main, list(arguments), out=out, err=err, **variables)
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, out.read_text(), err.read_text())


def _alone(
    work: Callable[..., Any], arguments: tuple[Any, ...], output: tuple[Path, Path], environment: Mapping[str, str]
) -> None:
    os.environ.clear()  # what stands there is from when the server began
    os.environ.update(environment)
    tempfile.tempdir = None  # and so is the folder that it was found by
    warnings.simplefilter("ignore")
    for stream, path in enumerate(output, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
    work(*arguments)
