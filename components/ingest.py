"""Door to `drift.data.problems.ingestion`."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components._images import image


@dsl.component(base_image=image("ingest"), install_kfp_package=False)
def ingest(step: str, problems: Output[Dataset], metrics: Output[Metrics], inputs: str = "") -> None:
    """Problems in: one checked table of problem, gold answer and image. `inputs`: their hash."""
    from pathlib import Path

    from drift.config.data import IngestConfig
    from drift.data.problems.ingestion import ingest as library
    from drift.tracking.steps import finite_metrics, run_step

    out = Path(problems.path)
    report = run_step(
        "ingest",
        step,
        IngestConfig,
        lambda config: library(config, out),
        record=metrics.path,
        outputs={"problems": problems},
    )
    metrics.metadata.update(finite_metrics(report))
