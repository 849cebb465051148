"""Doors to `drift.data`: what is in the pool of problems now, and the problems."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output

from components._images import image


@dsl.component(base_image=image("pool"), install_kfp_package=False)
def pool(step: str, metrics: Output[Metrics]) -> str:
    """Hash of the pool's contents; '' for a dataset of the hub."""
    from drift.config import IngestConfig
    from drift.data.pool import pool_contents
    from drift.steps import run_step

    report = run_step("pool", step, IngestConfig, pool_contents, record=metrics.path)
    metrics.metadata.update(report.metrics())
    return report.sha256


@dsl.component(base_image=image("ingest"), install_kfp_package=False)
def ingest(step: str, problems: Output[Dataset], metrics: Output[Metrics], pool: str = "") -> None:
    """Problems in: one checked table of problem, gold answer and image. `pool`, its hash, is for Kubeflow's cache."""
    from pathlib import Path

    from drift.config import IngestConfig
    from drift.data.ingest import ingest as library
    from drift.steps import run_step

    out = Path(problems.path)
    report = run_step("ingest", step, IngestConfig, lambda config: library(config, out), record=metrics.path)
    metrics.metadata.update(report.metrics())
