"""`drift track`: what MLflow did not take of a run, sent again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from drift.cli.options import CHAIN, DEFAULT_CONFIG, EXIT_BAD_INPUT, AsJson, ConfigFile, command
from drift.cli.show import show_json, show_text
from drift.config.file import load


@command(CHAIN)
def track(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Folder of a run, its name, or of a step on a cluster its spool or record."),
    ],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Send MLflow what it did not take of a run, finished or not; exit code 2 if something is still missing."""
    from drift.tracking.resend import resend

    folder = Path(run) if Path(run).exists() else Path(load(config).runs) / run
    sent = resend(folder)
    if as_json:
        show_json(json.dumps([asdict(one) | {"folder": str(one.folder)} for one in sent]))
    else:
        for one in sent:
            show_text(f"{one.folder}: {one.events} events sent; {one.missing}")
    if any(one.missing for one in sent):
        raise typer.Exit(EXIT_BAD_INPUT)
