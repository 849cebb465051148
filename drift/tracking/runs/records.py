"""What the steps of a run on a cluster have told MLflow, read from elsewhere: the run's page, its steps and arms.

Kubeflow's own plugin for MLflow may have made the page: then it alone carries the run's id, and the steps are below it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from drift.ground.artifacts import staged
from drift.ground.errors import ServiceError
from drift.tracking.runs.origin import CONFIG_FILE
from drift.tracking.store import KEY, URI, answer_of, open_client, page_of, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PIPELINE_RUN = "kfp.pipeline_run_id"
PARENT = "mlflow.parentRunId"
PAGE = 1000
"""Runs that are asked for at once."""


@dataclass(frozen=True)
class StepRecord:
    """A step's last attempt. `status` is MLflow's: RUNNING, FINISHED, FAILED, KILLED."""

    step: str
    arm: str
    status: str
    start: datetime | None
    end: datetime | None
    error: str
    cached: bool
    pod: str = ""
    """The pod that ran it, if it said so."""
    run_id: str = ""
    """Its own run in MLflow."""


@dataclass(frozen=True)
class RunRecord:
    """The page of a pipeline run: its status, address, tags (`drift.gate`, `drift.registered` ...) and steps."""

    run_id: str
    status: str
    url: str
    tags: Mapping[str, str]
    steps: tuple[StepRecord, ...]


class Records:
    """A reader of the store at MLFLOW_TRACKING_URI."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client, self._uri = client, uri

    @classmethod
    def open(cls) -> Records | None:
        """None where MLFLOW_TRACKING_URI is not set. Raises ServiceError."""
        uri = os.environ.get(URI)
        return cls(open_client(uri), uri) if uri else None

    def read(self, run_id: str) -> RunRecord | None:
        """What is known of the pipeline run; None as long as that is nothing. Raises ServiceError."""
        with self._asked():
            return self._read(run_id)

    def configured(self) -> Iterator[tuple[dict[str, Any], dict[tuple[str, str], StepRecord]]]:
        """Every run whose configuration is known here: that, whole, and its steps; the latest first.

        Raises ServiceError.
        """
        with self._asked():
            experiments = [one.experiment_id for one in self._client.search_experiments()]
            told = self._search(experiments, "tags.`drift.step` = 'inputs'")
        for run in sorted(told, key=_started, reverse=True):
            with self._asked():
                config = self._config_of(run.info.run_id)
                below = self._search(experiments, f"tags.`{PARENT}` = '{run.data.tags.get(PARENT)}'") if config else []
            if config:
                yield config, latest(_step(one) for one in sorted(below, key=_started) if _is_step(one))

    def fetch(self, step: StepRecord, output: str, beside: str, folder: Path) -> Path | None:
        """An output of a finished step, with the file `beside` in it that MLflow has on top; None if it is not there.

        It stays in `folder`, and is not fetched again. Raises ServiceError.
        """
        kept = folder / f"{step.run_id}-{step.end:%Y%m%d%H%M%S}" if step.end else None
        if step.status != "FINISHED" or kept is None:
            return None
        with self._asked():
            if not kept.is_dir():
                if not self._client.list_artifacts(step.run_id, output):
                    return None
                with staged(kept) as place:
                    self._client.download_artifacts(step.run_id, output, str(place))
                    self._client.download_artifacts(step.run_id, beside, str(place / output))
        return kept / output

    def _config_of(self, run_id: str) -> dict[str, Any]:
        """Empty for runs of a version that did not tell it."""
        if CONFIG_FILE not in [file.path for file in self._client.list_artifacts(run_id)]:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            text = Path(self._client.download_artifacts(run_id, CONFIG_FILE, folder)).read_text(encoding="utf-8")
        return dict(yaml.safe_load(text))

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # connection, authentication, a broken store: all kinds
            raise ServiceError(f"{URI}: {answer_of(self._uri, error)}") from error

    def _read(self, run_id: str) -> RunRecord | None:
        experiments = [one.experiment_id for one in self._client.search_experiments()]
        told = self._search(experiments, f"tags.`{PIPELINE_RUN}` = '{run_id}'")
        pages = (run for run in told if run.data.tags.get(KEY) == run_id or PARENT not in run.data.tags)
        roots = sorted(pages, key=lambda run: _rank(run, run_id))
        if not roots:
            return None
        page = roots[0]
        below = self._search(experiments, f"tags.`{PARENT}` = '{page.info.run_id}'")
        runs = {run.info.run_id: run for run in [*told, *below]}
        steps = tuple(_step(run) for run in sorted(runs.values(), key=_started) if _is_step(run))
        return RunRecord(page.info.run_id, page.info.status, self._url(page), dict(page.data.tags), steps)

    def _search(self, experiments: list[str], filter: str) -> list[Run]:
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(experiments, filter, max_results=PAGE, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _url(self, run: Run) -> str:
        page = page_of(self._uri, run.info.experiment_id, run.info.run_id)
        return page or f"{redact(self._uri).rstrip('/')} (run {run.info.run_id})"


def read_run(run_id: str) -> RunRecord | None:
    """What MLflow knows of a pipeline run; None if nothing, or without MLFLOW_TRACKING_URI. Raises ServiceError."""
    records = Records.open()
    return records.read(run_id) if records else None


def latest(steps: Iterable[StepRecord]) -> dict[tuple[str, str], StepRecord]:
    """The steps by step and arm; of several the one that began last."""
    return {(step.step, step.arm): step for step in steps}


def _rank(run: Run, run_id: str) -> tuple[bool, int]:
    """Our own page before one that Kubeflow's plugin has made, the oldest first."""
    return run.data.tags.get(KEY) != run_id, run.info.start_time or 0


def _is_step(run: Run) -> bool:
    return run.data.tags.get("drift.step", "pipeline") != "pipeline"


def _started(run: Run) -> int:
    return run.info.start_time or 0


def _step(run: Run) -> StepRecord:
    tags = run.data.tags
    return StepRecord(
        step=tags["drift.step"],
        arm=tags.get("drift.arm", ""),
        status=run.info.status,
        start=_time(run.info.start_time),
        end=_time(run.info.end_time) if run.info.status != "RUNNING" else None,
        error=tags.get("drift.error", ""),
        cached=tags.get("drift.cached") == "true",
        pod=tags.get("drift.pod", ""),
        run_id=run.info.run_id,
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
