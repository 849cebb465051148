"""`drift track`: what MLflow did not take of a run, sent again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from drift.cli.options import CHAIN, EXIT_BAD_INPUT, AsJson, RunsFolder, command, has_kubeflow
from drift.cli.show import show_json, show_text


@command(CHAIN)
def track(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Folder of a run, its name, or of a step on a cluster its spool or record."),
    ],
    runs: RunsFolder,
    as_json: AsJson = False,
) -> None:
    """Send MLflow what it did not take of a run, finished or not; exit code 2 if something is still missing."""
    from drift.tracking.resend import resend

    sent = resend(_folder(run, runs))
    if as_json:
        show_json(json.dumps([asdict(one) | {"folder": str(one.folder)} for one in sent]))
    else:
        for one in sent:
            show_text(f"{one.folder}: {one.events} events sent; {one.missing}")
    if any(one.missing for one in sent):
        raise typer.Exit(EXIT_BAD_INPUT)


def _folder(run: str, runs: Path) -> Path:
    """A path, or what a run is called in the folder of runs."""
    if Path(run).exists() or not has_kubeflow():
        return Path(run)
    from pipelines.local.past import find_run

    return find_run(runs.resolve(), run).folder.path
