"""Whether a run would do anything new: retraining on a timer costs seconds while nothing has changed.

What counts is what the steps are given: the configuration, and the contents of problems, models, benchmarks and code.
Another champion is no reason to train: every run that registers a model would be one for the next, on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drift.config.chain import Config
from drift.tracking import store
from pipelines.local.folders import last_finished
from pipelines.local.run import Runner, parameters


@dataclass(frozen=True)
class Unchanged:
    """The finished run that a run now would only repeat: its folder, and when it started (UTC)."""

    run: str
    started: str


def unchanged(config: Config, *, runner: Runner = "subprocess") -> Unchanged | None:
    """The last finished run of the configuration's name, if it had the parameters that a run would have now.

    Raises ServiceError if MLflow does not answer, ConfigError for a missing input.
    """
    runs = Path(config.runs).resolve()
    last = last_finished(runs, config.name)
    if last is None:
        return None
    now = parameters(config, store.store_uri(runs), runner).sha256()
    same = last.state["parameters_sha256"] == now
    return Unchanged(str(last.path), str(last.state["started"])) if same else None
