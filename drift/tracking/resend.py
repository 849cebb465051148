"""What MLflow did not take when a run told it, sent again: of a run's folder, or of a step's journal on a cluster."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drift.ground.artifacts import read_json, write_json
from drift.ground.errors import ConfigError, DataError
from drift.tracking import store
from drift.tracking.runs.tracker import Tracker
from drift.tracking.telling.delivery import Missing, Relay
from drift.tracking.telling.journal import JOURNAL, append

ABOUT = ("run.json", "spool.json")
"""Beside a journal: whose it is, and where it was told."""


@dataclass(frozen=True)
class Sent:
    """How many events of the journal in `folder` MLflow has got now, and what it still lacks."""

    folder: Path
    events: int
    missing: Missing


def resend(folder: Path) -> list[Sent]:
    """Send what is left of every journal in or below `folder`, of finished runs too; or what a step's record holds.

    Raises DataError where there is none, ConfigError if this is not the MLflow that the run told, ServiceError if that
    does not answer, PipelineError for a journal that a run at work is telling.
    """
    if folder.is_file():
        with tempfile.TemporaryDirectory(prefix="drift-spool-") as aside:
            return [replace(_resend(_unpacked(folder, Path(aside))), folder=folder)]
    journals = sorted(path.parent for path in _journals(folder))
    if not journals:
        raise DataError(f"{folder}: no journal of a run ({JOURNAL}) in it; give the folder of a run")
    return [_resend(journal) for journal in journals]


def _unpacked(record: Path, aside: Path) -> Path:
    """The journal that a step on a cluster wrote into its record. Raises DataError."""
    untold = read_json(record).get("untold")
    if not untold:
        raise DataError(f"{record}: MLflow lacks nothing of this step, or it is not the record (`metrics`) of one")
    write_json(aside / ABOUT[1], untold["about"])
    for event in untold["events"]:
        append(aside, event)
    return aside


def _journals(folder: Path) -> Iterator[Path]:
    if (folder / JOURNAL).exists():
        yield folder / JOURNAL
    else:
        yield from folder.glob(f"*/{JOURNAL}")
        yield from folder.glob(f"*/*/{JOURNAL}")


def _resend(folder: Path) -> Sent:
    about = _about(folder)
    uri = _address(folder, about)
    store.check_server(uri)
    tracker = Tracker.open(
        uri, experiment=about["experiment"], run_id=about["run_id"], name=about.get("name") or folder.name
    )
    with contextlib.closing(Relay(folder, tracker.apply, tracker.answers)) as relay:
        before = relay.missing()
        relay.deliver(everything=True)
        missing = relay.missing()
        tracker.note_missing(missing)
    return Sent(folder, before.events - missing.events, missing)


def _about(folder: Path) -> dict[str, Any]:
    for name in ABOUT:
        if (folder / name).exists():
            return dict(read_json(folder / name))
    raise DataError(f"{folder}: neither of {' and '.join(ABOUT)} says whose journal this is")


def _address(folder: Path, about: dict[str, Any]) -> str:
    """The store that the run told, with this process's user and password. Raises ConfigError for another one."""
    told = str(about.get("mlflow_uri", ""))
    uri = os.environ.get(store.URI) or (told if told.startswith("sqlite:") else store.store_uri(folder.parent))
    if told and store.redact(uri) != told:
        raise ConfigError(f"{store.URI}: {folder} was told to {told}, not to {store.redact(uri)}; set it to that")
    return uri
