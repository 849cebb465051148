"""Door to `drift.tracking.models.registry`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output

from components._images import image


@dsl.component(base_image=image("register"), install_kfp_package=False)
def register(
    step: str, model: Input[Model], gate: Input[Artifact], registered: Output[Artifact], metrics: Output[Metrics]
) -> None:
    """The winner becomes a version in MLflow's registry, with a copy of its files; `gate` decided on these."""
    from pathlib import Path

    from drift.config.gate import RegisterConfig
    from drift.tracking.models.registration import register as library
    from drift.tracking.steps import finite_metrics, run_step

    decision, out = Path(gate.path), Path(registered.path)
    report = run_step(
        "register",
        step,
        RegisterConfig,
        lambda config: library(config, model=model.path, gate=decision, out=out, source=model.uri),
        record=metrics.path,
        outputs={"registered": registered},
        files=[out / "registered.json"],
    )
    metrics.metadata.update(finite_metrics(report))
