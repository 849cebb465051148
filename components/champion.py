"""Doors to `drift.champion`: who it is, and its scores under this run's protocol."""

from kfp import dsl
from kfp.dsl import Artifact, Metrics, Output

from components._images import IMAGES


@dsl.component(base_image=IMAGES["pipeline"], install_kfp_package=False)
def champion(step: str, metrics: Output[Metrics]) -> str:
    """The registry's champion with the hash of its contents, as JSON; '' if there is none."""
    from drift.champion import resolve
    from drift.plan import ChampionStep
    from drift.steps import run_step

    found = run_step("champion", step, ChampionStep, lambda config: resolve(config.model), record=metrics.path)
    metrics.metadata.update(found.metrics())
    return found.to_json()


@dsl.component(base_image=IMAGES["evaluate"], install_kfp_package=False)
def evaluate_champion(step: str, champion: str, scores: Output[Artifact], metrics: Output[Metrics]) -> None:
    """Scores of the champion; a folder that says so where there is none."""
    from pathlib import Path

    from drift.champion import evaluate_champion as library
    from drift.config import EvaluateConfig
    from drift.steps import run_step

    report = run_step(
        "evaluate_champion",
        step,
        EvaluateConfig,
        lambda config: library(config, champion=champion, out=Path(scores.path)),
        record=metrics.path,
        files=[Path(scores.path) / "champion.json"],
    )
    metrics.metadata.update(report.metrics())
