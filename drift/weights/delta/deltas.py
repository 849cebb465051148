"""Every named prior Δ of a run, in one folder: `<name>/delta.safetensors` and its statistics."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from drift.config.plan import DeltasStep
from drift.ground.artifacts import PROVENANCE, staged
from drift.weights.delta.delta import DeltaReport, compute_delta
from drift.weights.delta.deltafile import STATS


@dataclass(frozen=True)
class DeltasReport:
    """The report of each Δ, by its name."""

    deltas: dict[str, DeltaReport]

    @property
    def warnings(self) -> list[str]:
        """What each Δ's checkpoints gave reason to warn of."""
        return [f"{name}: {warning}" for name, report in self.deltas.items() for warning in report.warnings]

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: `delta/norm` of the Δ named `paper` is `paper/delta/norm`."""
        return {
            f"{name}/{metric}": value
            for name, report in self.deltas.items()
            for metric, value in report.metrics().items()
        }


def compute_deltas(step: DeltasStep, out: Path, statistics: Path | None = None) -> DeltasReport:
    """Write each Δ of the section into its folder below ``out``, and its statistics and provenance also into its folder
    below ``statistics``, for who needs no weights. Raises what `compute_delta` raises.
    """
    models = step.models
    with staged(out) as folder:
        reports = {
            name: compute_delta(config, expert=models.expert, vlm=models.vlm, base=models.base, out=folder / name)
            for name, config in step.deltas.items()
        }
    if statistics is not None:
        with staged(statistics) as folder:
            for name in reports:
                (folder / name).mkdir()
                for file in (STATS, PROVENANCE):
                    shutil.copy(out / name / file, folder / name)
    return DeltasReport(reports)
