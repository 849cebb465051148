"""The one command, `drift`: parses, calls one library function, shows what it did.

Heavy imports stay inside the commands, so that `drift --help` is quick. This wing is the only one of the library that
may import `pipelines`, and only inside the commands that run the whole chain.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

from drift import __version__

from drift.cli import begin, chain, ablate, runs, track, steps, measuring, data, cluster, schedules, models, use, other  # isort: skip  # noqa: F401  # the panels, in their order
from drift.cli.options import EXIT_BAD_INPUT, app
from drift.cli.show import show_text
from drift.ground.disk import full_disk, line
from drift.ground.errors import TERMINATED, DriftError


def _version(value: bool) -> None:
    if value:
        show_text(f"drift {__version__}")
        raise typer.Exit


PROGRESS = ("drift.training.telling", "drift.ground.progress")
"""Loggers of the lines that stand in a bar's place where there is no terminal."""


class _Lines(logging.Formatter):
    """Progress is said as it is; of all else also who says it, and how bad it is."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.name in PROGRESS else super().format(record)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what drift and its libraries do.")] = False,
) -> None:
    """DRIFT: transfer reasoning from a text expert into a multimodal model."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    for name in PROGRESS:
        logging.getLogger(name).setLevel(logging.INFO)


def _end(message: str) -> NoReturn:
    with contextlib.suppress(OSError):  # standard error may be a file on the full disk
        _close_bars()
        sys.stderr.write(f"drift: {' '.join(message.split())}\n")
    _print_no_more()
    sys.exit(EXIT_BAD_INPUT)


def _close_bars() -> None:
    """A bar that an error has left open would share the error's line, and be drawn once more behind it."""
    if bars := sys.modules.get("tqdm.std"):
        for bar in list(getattr(bars.tqdm, "_instances", ())):
            bar.close()


def _print_no_more() -> None:
    """What standard output does not take would be tried, and told of, once more at the interpreter's end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str] | None) -> Any:
    """The command; what it printed is out, or that is an error, before it has ended."""
    try:
        return app(arguments)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has read enough
            _print_no_more()


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: errors of the input are one line and exit code 2."""
    if os.getpid() == 1:  # the first process of a container has no default for SIGTERM
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    atexit.register(gc.freeze)  # the interpreter's last collections would go through all of torch and MLflow
    try:
        return _run(arguments)
    except DriftError as error:
        _end(str(error))
    except Exception as error:
        if reason := full_disk(error):
            _end(line(error, reason))
        raise
    except KeyboardInterrupt:
        sys.stderr.write("drift: interrupted; the same command goes on from the last finished step\n")
        sys.exit(130)
