"""Door to `drift.weights.delta.deltas`."""

from kfp import dsl
from kfp.dsl import Artifact, Metrics, Output

from components._images import image


@dsl.component(base_image=image("deltas"), install_kfp_package=False)
def deltas(
    step: str, deltas: Output[Artifact], statistics: Output[Artifact], metrics: Output[Metrics], inputs: str = ""
) -> None:
    """Every named prior Δ, in a folder of its name, and what is known of it without its weights, which are large.

    `inputs`: the models' hashes.
    """
    from pathlib import Path

    from drift.config.plan import DeltasStep
    from drift.tracking.steps import finite_metrics, run_step
    from drift.weights.delta.deltas import compute_deltas as library

    out, told = Path(deltas.path), Path(statistics.path)
    report = run_step(
        "deltas",
        step,
        DeltasStep,
        lambda config: library(config, out, told),
        record=metrics.path,
        outputs={"deltas": deltas, "statistics": statistics},
    )
    metrics.metadata.update(finite_metrics(report))
