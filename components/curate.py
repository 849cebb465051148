"""Door to `drift.data.selection.curation`."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from components._images import image


@dsl.component(base_image=image("curate"), install_kfp_package=False)
def curate(
    step: str,
    problems: Input[Dataset],
    generations: Input[Dataset],
    training_set: Output[Dataset],
    metrics: Output[Metrics],
    inputs: str = "",
) -> None:
    """The chains with the right format and the right answer become the training set. `inputs`: hashes of the rest."""
    from pathlib import Path

    from drift.config.data import CurateConfig
    from drift.data.selection.curation import curate as library
    from drift.tracking.steps import finite_metrics, run_step

    source, chains, out = Path(problems.path), Path(generations.path), Path(training_set.path)
    report = run_step(
        "curate",
        step,
        CurateConfig,
        lambda config: library(config, source, chains, out),
        record=metrics.path,
        outputs={"training_set": training_set},
        files=[out / "funnel.json"],
        datasets={"problems": source, "generations": chains},
    )
    metrics.metadata.update(finite_metrics(report))
