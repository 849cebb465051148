"""One arm of the comparison: an optional merge, then an optional training, gives one model."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drift.artifacts import staged, write_json
from drift.deltafile import projection
from drift.errors import DataError
from drift.merge import merge
from drift.plan import ArmStep

if TYPE_CHECKING:
    from drift.train import TrainReport


@dataclass(frozen=True)
class ArmReport:
    """How an arm's model was made, and how far it went towards the expert along each Δ."""

    arm: str
    seconds: float
    projection: dict[str, float]
    train: TrainReport | None

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow."""
        trained = self.train.metrics() if self.train else {}
        return {
            "arm/seconds": self.seconds,
            **trained,
            **{f"projection/{name}": value for name, value in self.projection.items()},
        }


def run_arm(
    step: ArmStep, *, training_set: Path, deltas: Path, out: Path, record: Path, model_uri: str | None = None
) -> ArmReport:
    """Make the arm's model in ``out`` and its small record (`arm.json`, `history.jsonl`, `cosines.svg`) in ``record``.

    ``deltas`` holds one folder per named Δ; ``model_uri`` is where the model can be found later (default: ``out``).
    Raises what `merge` and `train` raise.
    """
    started = time.monotonic()
    trained = _make(step, training_set, deltas, out)
    projections = {folder.name: projection(out, folder) for folder in sorted(deltas.iterdir()) if folder.is_dir()}
    report = ArmReport(step.name, time.monotonic() - started, projections, trained)
    _write_record(step, report, record, model_uri or str(out), out)
    return report


def _make(step: ArmStep, training_set: Path, deltas: Path, out: Path) -> TrainReport | None:
    with tempfile.TemporaryDirectory(prefix="drift-merge-", dir=out.parent) as aside:
        start = step.models.vlm
        if step.merge is not None:
            merged = Path(aside) / "merged" if step.train else out
            models = step.models
            merge(step.merge, expert=models.expert, vlm=models.vlm, base=models.base, out=merged)
            start = str(merged)
        if step.train is None:
            return None
        from drift.train import train  # takes seconds, and a merge alone does not need it

        return train(step.train, model=start, training_set=training_set, delta=_delta(step, deltas), out=out)


def _delta(step: ArmStep, deltas: Path) -> Path | None:
    if step.delta is None:
        return None
    if not (deltas / step.delta).is_dir():
        raise DataError(f"{deltas}: holds no delta '{step.delta}' for arm '{step.name}'; compute it with `drift delta`")
    return deltas / step.delta


def _write_record(step: ArmStep, report: ArmReport, record: Path, model_uri: str, out: Path) -> None:
    with staged(record) as folder:
        if (out / "cosines.svg").exists():
            shutil.copy(out / "cosines.svg", folder)
        history = report.train.history if report.train else []
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
        write_json(
            folder / "arm.json",
            {
                "arm": step.name,
                "model_uri": model_uri,
                "merge": step.merge.model_dump(mode="json") if step.merge else None,
                "train": step.train.model_dump(mode="json") if step.train else None,
                "delta": step.delta,
                "projection": report.projection,
                "seconds": report.seconds,
                "metrics": report.metrics(),
            },
        )
