"""Door to `drift.data.chains.distillation`."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components._images import image


@dsl.component(base_image=image("generate"), install_kfp_package=False)
def generate(step: str, problems: Input[Dataset], generations: Output[Dataset], metrics: Output[Metrics]) -> None:
    """The teacher writes chains of thought."""
    from pathlib import Path

    from drift.config.data import GenerateConfig
    from drift.data.chains.distillation import generate as library
    from drift.tracking.steps import finite_metrics, run_step

    source, out = Path(problems.path), Path(generations.path)
    report = run_step(
        "generate",
        step,
        GenerateConfig,
        lambda config: library(config, source, out),
        record=metrics.path,
        outputs={"generations": generations},
        files=[out / "generations.json"],
        datasets={"problems": source},
    )
    metrics.metadata.update(finite_metrics(report))
