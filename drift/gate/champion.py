"""The registry's champion in a run: who it is, and its scores under the run's own protocol and data.

Scores that the champion got under an earlier protocol do not compare, so it is evaluated again, from the registry.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.evaluation import EvaluateReport, evaluate
from drift.ground.artifacts import read_json, staged, write_json
from drift.tracking import registry

FILE = "champion.json"
SCORES = "scores"


@dataclass(frozen=True)
class Resolved:
    """The registry's answer, and whether training starts from it."""

    champion: registry.Champion | None
    starts: bool = False

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: the version, 0 for none."""
        return {"champion/version": float(self.champion.version if self.champion else 0)}

    def outputs(self) -> tuple[str, str]:
        """The parameters of `evaluate_champion` and of `start`; '' for none. An arm whose training starts elsewhere
        sees no champion, so that none reruns because another one reigns."""
        known = self.champion.to_json() if self.champion else ""
        return known, known if self.starts else ""


@dataclass(frozen=True)
class ChampionReport:
    """What the champion scored; None if there is none."""

    evaluated: EvaluateReport | None

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow, as of every evaluation, and whether there is a champion."""
        return {"champion/evaluated": float(self.evaluated is not None)} | (
            self.evaluated.metrics() if self.evaluated else {}
        )


def resolve(model: str, *, starts: bool = False) -> Resolved:
    """Ask the registry at MLFLOW_TRACKING_URI. Raises ServiceError if it does not answer."""
    return Resolved(registry.find_champion(model), starts)


def evaluate_champion(config: EvaluateConfig, *, champion: str, out: Path) -> ChampionReport:
    """Write into ``out`` who the champion is (`champion.json`) and its scores; only the first, null, if there is none.

    ``champion``: as `Resolved.outputs` has it. Raises ServiceError or DataError for a model that cannot be fetched.
    """
    known = registry.parse_champion(champion)
    with staged(out) as folder:
        write_json(folder / FILE, {"champion": dataclasses.asdict(known) if known else None})
        return ChampionReport(_evaluated(config, known, folder / SCORES) if known else None)


def champion_scores(folder: Path) -> Path | None:
    """The score folder in what `evaluate_champion` wrote; None if there is no champion."""
    return folder / SCORES if read_json(folder / FILE)["champion"] else None


def _evaluated(config: EvaluateConfig, champion: registry.Champion, out: Path) -> EvaluateReport:
    with tempfile.TemporaryDirectory() as folder:
        model = registry.fetch(champion, Path(folder))
        return evaluate(config, model=str(model), label="champion", out=out)
