"""The registry's champions in a run: who they are, and their scores under the run's own protocol and data.

The reigning one, and the best one ever where that is another. Scores that a champion got under an earlier protocol do
not compare, so it is evaluated again, from the registry.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.evaluation import EvaluateReport, evaluate
from drift.ground.artifacts import read_json, staged, write_json
from drift.tracking.models import registry

FILE = "champion.json"
SCORES, BEST_SCORES = "scores", "best"


@dataclass(frozen=True)
class Resolved:
    """The registry's answer, and whether training starts from the reigning champion."""

    champions: registry.Champions | None
    starts: bool = False

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: the versions, 0 for none."""
        reigning = self.champions.reigning if self.champions else None
        best = (self.champions.best if self.champions else None) or reigning
        versions = {"champion/version": reigning, "champion/best_version": best}
        return {name: float(one.version if one else 0) for name, one in versions.items()}

    def outputs(self) -> tuple[str, str]:
        """The parameters of `evaluate_champion` and of `start`; '' for none. An arm whose training starts elsewhere
        sees no champion, so that none reruns because another one reigns."""
        if self.champions is None:
            return "", ""
        return self.champions.to_json(), self.champions.reigning.to_json() if self.starts else ""


@dataclass(frozen=True)
class ChampionReport:
    """What the reigning champion scored; None if there is none."""

    evaluated: EvaluateReport | None

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow, as of every evaluation, and whether there is a champion."""
        return {"champion/evaluated": float(self.evaluated is not None)} | (
            self.evaluated.metrics() if self.evaluated else {}
        )


@dataclass(frozen=True)
class ChampionScores:
    """Score folders of the champions."""

    reigning: Path | None = None
    best: Path | None = None
    """None where the reigning one is the best ever."""


def resolve(model: str, *, starts: bool = False) -> Resolved:
    """Ask the registry at MLFLOW_TRACKING_URI. Raises ServiceError if it does not answer."""
    return Resolved(registry.find_champions(model), starts)


def evaluate_champion(config: EvaluateConfig, *, champion: str, out: Path) -> ChampionReport:
    """Write into ``out`` who the champions are (`champion.json`) and their scores; only the first if there is none.

    ``champion``: as `Resolved.outputs` has it. Raises ServiceError or DataError for a model that cannot be fetched.
    """
    known = registry.parse_champions(champion)
    with staged(out) as folder:
        write_json(folder / FILE, dataclasses.asdict(known) if known else {"reigning": None, "best": None})
        if known is None:
            return ChampionReport(None)
        if known.best:
            _evaluated(config, known.best, "best", folder / BEST_SCORES)
        return ChampionReport(_evaluated(config, known.reigning, "champion", folder / SCORES))


def champion_scores(folder: Path) -> ChampionScores:
    """The score folders in what `evaluate_champion` wrote."""
    known = read_json(folder / FILE)
    reigning, best = (
        folder / name if known[who] else None for who, name in (("reigning", SCORES), ("best", BEST_SCORES))
    )
    return ChampionScores(reigning, best)


def _evaluated(config: EvaluateConfig, champion: registry.Champion, label: str, out: Path) -> EvaluateReport:
    with tempfile.TemporaryDirectory() as folder:
        model = registry.fetch(champion, Path(folder))
        return evaluate(config, model=str(model), label=label, out=out)
