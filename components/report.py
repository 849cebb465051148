"""Door to `drift.gate.report.page`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from components._images import image


@dsl.component(base_image=image("report"), install_kfp_package=False)
def report(
    step: str,
    baseline: Input[Artifact],
    scores: Input[list[Artifact]],
    records: Input[list[Artifact]],
    gate: Input[Artifact],
    training_set: Input[Dataset],
    statistics: Input[Artifact],
    report: Output[Artifact],
    page: Output[HTML],
    metrics: Output[Metrics],
) -> None:
    """All arms in one table, and an HTML page that says why the gate decided as it did."""
    from pathlib import Path

    from drift.config.plan import ReportStep
    from drift.gate.report.page import PAGE, Summary, summarize, write_report
    from drift.tracking.steps import finite_metrics, labelled, run_step

    scored = labelled([one.path for one in scores], "scores.json", "label")
    recorded = labelled([one.path for one in records], "arm.json", "arm")
    inputs = {"baseline": baseline, "gate": gate, "training_set": training_set, "deltas": statistics}
    folders = {name: Path(artifact.path) for name, artifact in inputs.items()}
    arms, out = {name: (folder, recorded[name]) for name, folder in scored.items()}, Path(report.path)

    def work(config: ReportStep) -> Summary:
        summary = summarize(folders["baseline"], arms, folders["gate"], model=config.model)
        write_report(out, summary, arms=arms, title=config.name, copy=Path(page.path), **folders)
        return summary

    summary = run_step(
        "report",
        step,
        ReportStep,
        work,
        record=metrics.path,
        outputs={"report": report},
        files=[out / PAGE, out / "summary.json"],
    )
    metrics.metadata.update(finite_metrics(summary))
