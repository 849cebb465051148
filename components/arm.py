"""Door to `drift.training.arm`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components._images import image


@dsl.component(base_image=image("arm"), install_kfp_package=False)
def arm(
    step: str,
    training_set: Input[Dataset],
    deltas: Input[Artifact],
    start: Input[Model],
    model: Output[Model],
    record: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """One way to a model: an optional merge, then an optional training, and a small record of it."""
    from pathlib import Path

    from drift.config.plan import ArmStep
    from drift.tracking.steps import arm_of, finite_metrics, run_step
    from drift.training.arm import run_arm

    inputs = {"training_set": Path(training_set.path), "deltas": Path(deltas.path), "start": Path(start.path)}
    out, notes = Path(model.path), Path(record.path)
    report = run_step(
        "arm",
        step,
        ArmStep,
        lambda config: run_arm(config, **inputs, out=out, record=notes, model_uri=model.uri),
        record=metrics.path,
        outputs={"model": model, "record": record},
        arm=arm_of(step),
        files=[notes / "arm.json", notes / "history.jsonl", notes / "cosines.svg"],
        datasets=inputs,
        history=notes / "history.jsonl",
    )
    metrics.metadata.update(finite_metrics(report))
