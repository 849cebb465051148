"""Door to `drift.tracking.steps.finish_pipeline`: what runs at the end in any case."""

from kfp import dsl
from kfp.dsl import PipelineTaskFinalStatus

from components._images import image


@dsl.component(base_image=image("finalize"), install_kfp_package=False)
def finalize(status: PipelineTaskFinalStatus) -> None:
    """Close the run in MLflow: its state, and KILLED for steps that never ended. End what a training left at work."""
    from drift.tracking.steps import finish_pipeline
    from drift.training.nodes.kube import end_left_jobs

    end_left_jobs()
    finish_pipeline(status.state)
