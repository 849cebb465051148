"""What the gate decided and everything that rests on: `gate.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drift.config.gate import GateConfig
from drift.evaluate.scores import ROLES, Scores
from drift.gate.operating import Operating
from drift.gate.rules import Check
from drift.gate.statistics import Comparison
from drift.gate.succession import Succession
from drift.ground.artifacts import SCHEMA


def verdict_tags(winner: str, reasons: Sequence[str]) -> dict[str, str]:
    """A decision as tags of a run in MLflow: `winner` is empty where the gate refused."""
    verdict = {"drift.gate": "passed" if winner else "refused", "drift.gate_reasons": " ".join(reasons)}
    return verdict | ({"drift.winner": winner} if winner else {})


def measured(scores: Sequence[Scores]) -> dict[str, Any]:
    """What is kept of scores that were measured alike; the first is the candidate's."""
    first = scores[0]
    models = {one.label: {role: one.role(role) for role in ROLES} | {"columns": one.columns()} for one in scores}
    return {
        "protocol": first.protocol,
        "protocol_fingerprint": first.protocol_fingerprint,
        "data_fingerprint": first.data_fingerprint,
        "confidence": first.confidence,
        "models": {name: {key: _plain(value) for key, value in one.items()} for name, one in models.items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: dataclasses.asdict(mean) for name, mean in value.items()}
    return dataclasses.asdict(value) if value else None


def verdict_page(candidate: str, winner: str, reasons: Sequence[str]) -> dict[str, str]:
    """A decision on the page of a run in MLflow, in Markdown."""
    said = f"**Gate: {candidate} {'passed' if winner else 'was refused'}.**"
    return {"verdict": "\n".join([said, "", *(f"- {reason}" for reason in reasons)])}


@dataclass(frozen=True)
class GateReport:
    """The decision, and everything it rests on."""

    candidate: str
    baseline: str
    model_sha256: str
    """Contents of the candidate's model directory: what may be registered, and nothing else."""
    checks: list[Check]
    comparisons: dict[str, Comparison]
    """Every arm against the baseline."""
    champion: Comparison | None
    """The candidate against the reigning champion."""
    best: Comparison | None
    """The candidate against the best champion ever, where that is another."""
    champion_sha256: str | None
    """Contents of the champion it was compared with; None for none."""
    succession: Succession
    operating: Operating
    measured: dict[str, Any]
    """Scores with intervals of the candidate and of those it was compared with, and the protocol: for its card."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def winner(self) -> str:
        """The arm that may be registered; empty if none."""
        return self.candidate if self.passed else ""

    @property
    def reasons(self) -> list[str]:
        """Why it was refused; if it passed, why it could."""
        return [check.detail for check in self.checks if check.passed == self.passed]

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: `gate/passed` and `gate/promotes` (0 or 1), the value of each check, and the
        probabilities."""
        values = {f"gate/{check.name}": check.value for check in self.checks}
        return (
            {"gate/passed": float(self.passed), "gate/promotes": float(self.succession.promotes)}
            | values
            | {f"gate/operating_{name}": value for name, value in dataclasses.asdict(self.operating).items() if value}
        )

    def run_tags(self) -> dict[str, str]:
        """What the whole run in MLflow is told."""
        return verdict_tags(self.winner, self.reasons)

    def page(self) -> dict[str, str]:
        """What the run's page in MLflow says of it."""
        return verdict_page(self.candidate, self.winner, self.reasons)

    def to_json(self, config: GateConfig) -> dict[str, Any]:
        """The content of `gate.json`."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "candidate": self.candidate,
            "winner": self.winner,
            "baseline": self.baseline,
            "model_sha256": self.model_sha256,
            "measured": self.measured,
            "max_perception_loss": config.max_perception_loss,
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "reasons": self.reasons,
            **dataclasses.asdict(self.succession),
            "operating": dataclasses.asdict(self.operating),
            "comparisons": {name: comparison.to_json() for name, comparison in self.comparisons.items()},
            "champion": self.champion.to_json() if self.champion else None,
            "champion_sha256": self.champion_sha256,
            "best_champion": self.best.to_json() if self.best else None,
        }
