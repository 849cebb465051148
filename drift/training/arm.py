"""One arm of the comparison: an optional merge, then an optional training, gives one model."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drift.config.models import ModelsConfig
from drift.config.plan import ArmStep
from drift.ground.artifacts import START_MODEL, read_provenance, staged, write_json
from drift.ground.errors import DataError
from drift.ground.strict import strict_json
from drift.weights.delta.deltafile import load_delta, projection, require_made_from
from drift.weights.licences import name_parents
from drift.weights.merging.merge import merge
from drift.weights.storage.checkpoints import resolve

if TYPE_CHECKING:
    from drift.training.sft import TrainReport


@dataclass(frozen=True)
class ArmReport:
    """How an arm's model was made, and how far it went towards the expert along each Δ."""

    arm: str
    seconds: float
    projection: dict[str, float]
    train: TrainReport | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know of the training."""
        return self.train.warnings if self.train else ()

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow."""
        trained = self.train.metrics() if self.train else {}
        return {
            "arm/seconds": self.seconds,
            **trained,
            **{f"projection/{name}": value for name, value in self.projection.items()},
        }


def run_arm(
    step: ArmStep,
    *,
    training_set: Path,
    deltas: Path,
    start: Path,
    out: Path,
    record: Path,
    model_uri: str | None = None,
) -> ArmReport:
    """Make the arm's model in ``out`` and its small record (`arm.json`, `history.jsonl`, `cosines.svg`) in ``record``.

    ``deltas`` holds one folder per named Δ, ``start`` is what `fetch_start` wrote; ``model_uri`` is where the model can
    be found later (default: ``out``). Raises what `merge` and `train` raise, and PriorError for a start that was made
    from another φ_VL than a Δ.
    """
    started, folders = time.monotonic(), sorted(folder for folder in deltas.iterdir() if folder.is_dir())
    trained = _make(step, training_set, folders, start, out)
    name_parents(out, step.name, _parents(step, folders))
    projections = {folder.name: projection(out, folder) for folder in folders}
    report = ArmReport(step.name, time.monotonic() - started, projections, trained)
    _write_record(step, report, record, model_uri or str(out), out)
    return report


def _make(step: ArmStep, training_set: Path, deltas: Sequence[Path], start: Path, out: Path) -> TrainReport | None:
    if step.train is None:
        _merged(step, deltas, out)
        return None
    from drift.training.sft import train  # takes seconds, and a merge alone does not need it

    with tempfile.TemporaryDirectory(prefix="drift-merge-", dir=out.parent) as aside:
        model = (
            _merged(step, deltas, Path(aside) / "merged") if step.merge else _start(step.models, start / START_MODEL)
        )
        for folder in deltas:
            require_made_from(load_delta(folder), model)
        delta = _folder(step, step.delta, deltas)
        teacher = step.models.expert if step.train.distils else None
        return train(
            step.train, model=str(model), training_set=training_set, delta=delta, teacher=teacher, out=out,
            name=step.name,
        )  # fmt: skip


def _merged(step: ArmStep, deltas: Sequence[Path], out: Path) -> Path:
    assert step.merge is not None  # an arm merges or trains
    models = step.models
    delta = _folder(step, step.merge.delta, deltas)
    merge(step.merge, expert=models.expert, vlm=models.vlm, base=models.base, out=out, delta=delta)
    return out


def _start(models: ModelsConfig, champion: Path) -> Path:
    """What training starts from: φ_VL, another checkpoint, or the champion if there is one."""
    if models.start_at_champion:
        return champion if champion.is_dir() else resolve(models.vlm)
    return resolve(models.start or models.vlm)


def _folder(step: ArmStep, delta: str | None, deltas: Sequence[Path]) -> Path | None:
    if delta is None:
        return None
    for folder in deltas:
        if folder.name == delta:
            return folder
    known = ", ".join(folder.name for folder in deltas)
    raise DataError(f"arm '{step.name}': no delta '{delta}' among {known}; compute it with `drift delta`")


def _timed(report: TrainReport) -> list[dict[str, float]]:
    """The history, each row with the time at which it was logged, and the looks at rows held out, which have theirs."""
    times = report.times or [0.0] * len(report.history)
    return [*({**row, "time": at} for row, at in zip(report.history, times, strict=True)), *report.held_out]


def _parents(step: ArmStep, deltas: Sequence[Path]) -> dict[str, str]:
    """The checkpoints that the arm's model comes from, by role."""
    models, found = step.models, {"vlm": step.models.vlm}
    taught = step.train is not None and step.train.distils
    if (step.merge and None in (step.merge.experts or (None,))) or step.delta or taught:
        found["expert"] = models.expert
    for place, own in enumerate(step.merge.experts if step.merge else (), 1):
        found |= {f"merged_{place}": own} if own else {}
    if step.merge and models.base:
        found["base"] = models.base
    if step.train and not step.merge and models.start and not models.start_at_champion:
        found["start"] = models.start
    added = {step.delta, step.merge.delta if step.merge else None}
    for folder in (folder for folder in deltas if folder.name in added):
        inputs = read_provenance(folder)["inputs"]
        others = [one for one in inputs if one["name"].startswith("expert_")]
        found |= {one["name"]: one["uri"] for one in others} if len(others) > 1 else {}
    return found


def _write_record(step: ArmStep, report: ArmReport, record: Path, model_uri: str, out: Path) -> None:
    with staged(record) as folder:
        if (out / "cosines.svg").exists():
            shutil.copy(out / "cosines.svg", folder)
        history = _timed(report.train) if report.train else []
        (folder / "history.jsonl").write_text("".join(strict_json(row) + "\n" for row in history))
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
