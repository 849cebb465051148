"""Door to `drift.planning.inputs`. What it returns goes to the steps that read it, for Kubeflow's cache alone."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Metrics, Output

from components._images import image


@dsl.component(base_image=image("inputs"), install_kfp_package=False)
def inputs(step: str, metrics: Output[Metrics]) -> NamedTuple("Out", [("pool", str), ("replay", str), ("models", str)]):  # type: ignore[valid-type]  # as Kubeflow reads it
    """Hashes of what lies outside the pipeline and may change under its name; '' for what the hub has."""
    from drift.config.plan import InputsStep
    from drift.planning.inputs import look
    from drift.tracking.steps import finite_metrics, run_step

    report = run_step("inputs", step, InputsStep, look, record=metrics.path)
    metrics.metadata.update(finite_metrics(report))
    return report.outputs()
