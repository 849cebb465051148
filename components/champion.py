"""Doors to `drift.gate.champion` and `drift.training.start`: who it is, its scores under this run's protocol, and its
model where training starts from it."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Metrics, Model, Output

from components._images import image


@dsl.component(base_image=image("champion"), install_kfp_package=False)
def champion(step: str, metrics: Output[Metrics]) -> NamedTuple("Outputs", [("champion", str), ("start", str)]):  # type: ignore[valid-type]  # as Kubeflow reads it
    """The registry's champion with the hash of its contents, as JSON, and again if training starts from it; or ''."""
    from drift.config.plan import ChampionStep
    from drift.gate.champion import resolve
    from drift.tracking.steps import finite_metrics, run_step

    found = run_step(
        "champion",
        step,
        ChampionStep,
        lambda config: resolve(config.model, starts=config.starts),
        record=metrics.path,
    )
    metrics.metadata.update(finite_metrics(found))
    return found.outputs()


@dsl.component(base_image=image("evaluate_champion"), install_kfp_package=False)
def evaluate_champion(step: str, champion: str, scores: Output[Artifact], metrics: Output[Metrics]) -> None:
    """Scores of the champion; a folder that says so where there is none."""
    from pathlib import Path

    from drift.config.evaluate import EvaluateConfig
    from drift.gate.champion import evaluate_champion as library
    from drift.tracking.steps import finite_metrics, run_step

    report = run_step(
        "evaluate_champion",
        step,
        EvaluateConfig,
        lambda config: library(config, champion=champion, out=Path(scores.path)),
        record=metrics.path,
        outputs={"scores": scores},
        files=[Path(scores.path) / "champion.json"],
    )
    metrics.metadata.update(finite_metrics(report))


@dsl.component(base_image=image("start"), install_kfp_package=False)
def start(step: str, champion: str, model: Output[Model], metrics: Output[Metrics]) -> None:
    """The champion's model, where training starts from it; a folder that says so where not."""
    from pathlib import Path

    from drift.config.plan import StartStep
    from drift.tracking.steps import finite_metrics, run_step
    from drift.training.start import fetch_start

    out = Path(model.path)
    report = run_step(
        "start",
        step,
        StartStep,
        lambda config: fetch_start(champion=champion, out=out),
        record=metrics.path,
        outputs={"model": model},
        files=[out / "start.json"],
    )
    metrics.metadata.update(finite_metrics(report))
