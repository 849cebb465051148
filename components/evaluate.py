"""Doors to `drift.evaluate`: the unmodified VLM, and an arm's model."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output

from components._images import image


@dsl.component(base_image=image("evaluate_vlm"), install_kfp_package=False)
def evaluate_vlm(step: str, scores: Output[Artifact], metrics: Output[Metrics], inputs: str = "") -> None:
    """Scores of the unmodified VLM: what every arm is compared with. `inputs`: the models' hashes."""
    from pathlib import Path

    from drift.config.plan import BaselineStep
    from drift.evaluate.evaluation import evaluate
    from drift.tracking.steps import finite_metrics, run_step

    out = Path(scores.path)
    report = run_step(
        "evaluate_vlm",
        step,
        BaselineStep,
        lambda config: evaluate(config.evaluate, model=config.vlm, label="vlm", out=out),
        record=metrics.path,
        outputs={"scores": scores},
        files=[out / "scores.json"],
    )
    metrics.metadata.update(finite_metrics(report))


@dsl.component(base_image=image("evaluate_arm"), install_kfp_package=False)
def evaluate_arm(step: str, arm: str, model: Input[Model], scores: Output[Artifact], metrics: Output[Metrics]) -> None:
    """Scores of an arm's model."""
    from pathlib import Path

    from drift.config.evaluate import EvaluateConfig
    from drift.evaluate.evaluation import evaluate
    from drift.tracking.steps import arm_of, finite_metrics, run_step

    name, out = arm_of(arm), Path(scores.path)
    report = run_step(
        "evaluate_arm",
        step,
        EvaluateConfig,
        lambda config: evaluate(config, model=model.path, label=name, out=out),
        record=metrics.path,
        outputs={"scores": scores},
        arm=name,
        files=[out / "scores.json"],
    )
    metrics.metadata.update(finite_metrics(report))
