"""Every named prior Δ of a run, in one folder: `<name>/delta.safetensors` and its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drift.config.plan import DeltasStep
from drift.ground.artifacts import staged
from drift.weights.delta import DeltaReport, compute_delta


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


def compute_deltas(step: DeltasStep, out: Path) -> DeltasReport:
    """Write each Δ of the section into its folder below ``out``. Raises what `compute_delta` raises."""
    models = step.models
    with staged(out) as folder:
        reports = {
            name: compute_delta(config, expert=models.expert, vlm=models.vlm, base=models.base, out=folder / name)
            for name, config in step.deltas.items()
        }
    return DeltasReport(reports)
