"""All arms beside the unmodified VLM in one table: what a run found, as `summary.json` and the closing table."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.evaluate.scores import ROLES, Mean, Scores, read_scores
from drift.gate.outcome import verdict_page, verdict_tags
from drift.ground.artifacts import SCHEMA, read_json
from drift.ground.errors import DataError, ServiceError
from drift.tracking.models.registry import address_of

log = logging.getLogger(__name__)

Folders = tuple[Path, Path | None]
"""An arm's scores, and its record if it has one."""


@dataclass(frozen=True)
class Row:
    """One model in the closing table. Differences are paired, in points, against the unmodified VLM."""

    label: str
    benchmarks: dict[str, float]
    """Percent right."""
    reasoning: Mean | None
    perception: Mean | None
    reasoning_difference: float | None = None
    perception_difference: float | None = None
    retained: bool | None = None
    """Whether the lower bound of its perception lies within the gate's margin; None for the unmodified VLM itself."""
    projection: dict[str, float] = dataclasses.field(default_factory=dict)
    """How far the weights went along each named Δ: 0 at the VLM, 1 at the expert."""
    train_seconds: float | None = None


@dataclass(frozen=True)
class Summary:
    """What the run found, in one table and one sentence. The first row is the unmodified VLM."""

    candidate: str
    winner: str
    passed: bool
    verdict: str
    reasons: list[str]
    benchmarks: dict[str, str]
    """Role by name, reasoning first."""
    max_perception_loss: float
    rows: list[Row]
    registered: str = ""
    """The winner's version in the registry, such as `models:/NAME/2`; '' where it is not there, or not yet."""

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def run_tags(self) -> dict[str, str]:
        """What the whole run is found by in MLflow, also where gate and register come from the cache."""
        there = {"drift.registered": self.registered} if self.registered else {}
        return verdict_tags(self.winner, self.reasons) | there

    def page(self) -> dict[str, str]:
        """What the run's page in MLflow says: the verdict again, whose gate may be cached, and all arms in a table."""
        head = ["| | reasoning % | perception % | against vlm, points | kept |", "|---|---:|---:|---:|---|"]
        results = "\n".join([*head, *map(_page_row, self.rows)])
        return verdict_page(self.candidate, self.winner, self.reasons) | {"results": results}

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: `<arm>/reasoning` and `<arm>/perception`, means in percent."""
        return {
            f"{row.label}/{role}": mean.mean
            for row in self.rows
            for role, mean in (("reasoning", row.reasoning), ("perception", row.perception))
            if mean is not None
        }


def summarize(baseline: Path, arms: Mapping[str, Folders], gate: Path, *, model: str | None = None) -> Summary:
    """The closing table from score folders, records and the gate's folder; ``model``: where its winner is registered.

    Raises DataError if one of them is missing, or the gate did not compare an arm.
    """
    decision = read_json(gate / "gate.json")
    ours = read_scores(baseline)
    rows = [_arm_row(name, *folders, decision, gate) for name, folders in arms.items()]
    verdict = f"{decision['candidate']} {'passed' if decision['passed'] else 'was refused'}: "
    return Summary(
        candidate=decision["candidate"],
        winner=decision["winner"],
        passed=decision["passed"],
        verdict=verdict + " ".join(decision["reasons"]),
        reasons=decision["reasons"],
        benchmarks={name: role for role in ROLES for name in ours.columns(role)},
        max_perception_loss=decision["max_perception_loss"],
        rows=[Row(ours.label, _headlines(ours), ours.reasoning, ours.perception), *rows],
        registered=registered_at(model, gate),
    )


def registered_at(model: str | None, gate: Path) -> str:
    """The winner's version of a registered model; '' if there is none, or MLflow does not answer: the report is made
    all the same."""
    decision = read_json(gate / "gate.json")
    if not (model and decision["passed"]):
        return ""
    try:
        return address_of(model, str(decision["model_sha256"]))
    except ServiceError as error:
        log.warning("the report does not say which version was registered: %s", error)
        return ""


def _page_row(row: Row) -> str:
    means = ["–" if mean is None else f"{mean.mean:.1f}" for mean in (row.reasoning, row.perception)]
    differences = [one for one in (row.reasoning_difference, row.perception_difference) if one is not None]
    kept = {None: "", True: "yes", False: "no"}[row.retained]
    return f"| {row.label} | {' | '.join(means)} | {' / '.join(f'{one:+.1f}' for one in differences)} | {kept} |"


def _arm_row(name: str, scores: Path, record: Path | None, decision: Mapping[str, Any], gate: Path) -> Row:
    if name not in decision["comparisons"]:
        raise DataError(f"{gate}: did not compare arm '{name}'; run `drift gate` with all arms")
    compared = decision["comparisons"][name]
    reasoning, perception = compared["reasoning"], compared["perception"]
    theirs = read_scores(scores)
    made = read_json(record / "arm.json") if record else {}
    return Row(
        label=name,
        benchmarks=_headlines(theirs),
        reasoning=theirs.reasoning,
        perception=theirs.perception,
        reasoning_difference=reasoning["points"],
        perception_difference=perception["points"],
        retained=perception["lower"] > -decision["max_perception_loss"],
        projection=made.get("projection") or {},
        train_seconds=(made.get("metrics") or {}).get("train/seconds"),
    )


def _headlines(scores: Scores) -> dict[str, float]:
    return {name: mean.mean for name, mean in scores.columns().items()}
