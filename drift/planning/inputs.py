"""What lies outside the pipeline as it is now, asked in every run: a changed file on a volume keeps its name.

On a cluster the name is all that Kubeflow's cache would see of it. Here the steps' parameters say it already.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from drift.config.plan import Inputs, InputsStep, delta_inputs, model_inputs, pool_inputs, question_inputs


@dataclass(frozen=True)
class InputsReport:
    """Hashes of the pool of problems, of what else curate reads, and of the models, as JSON; '' for what the hub or the
    parameters say."""

    pool: str = ""
    replay: str = ""
    models: str = ""

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: how many of the three were hashed."""
        return {"inputs/hashed": float(sum(map(bool, self.outputs())))}

    def outputs(self) -> tuple[str, str, str]:
        """The parameters of the steps that read them."""
        return self.pool, self.replay, self.models


def look(step: InputsStep) -> InputsReport:
    """Hash what the steps will read. Raises ConfigError for a file or folder that does not exist where this runs."""
    if step.hashed:
        return InputsReport()
    pool = pool_inputs(step.ingest)
    return InputsReport(*map(_told, (pool, question_inputs(step.replay, step.against), _models(step))))


def _models(step: InputsStep) -> Inputs:
    """Those of every Δ, those that a merge reads, and what training starts from."""
    hashes = delta_inputs(step.deltas)
    for role, reference in {**step.deltas.models.model_dump(), "start": step.start}.items():
        hashes |= model_inputs(f"models.{role}", reference) if reference else {}
    for own in step.experts:
        hashes |= model_inputs(f"merge.experts:{own}", own)
    return hashes


def _told(hashes: Inputs) -> str:
    return json.dumps(hashes, sort_keys=True) if hashes else ""
