"""Door to `drift.gate.decision`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Output

from components._images import image


@dsl.component(base_image=image("gate"), install_kfp_package=False)
def gate(
    step: str,
    baseline: Input[Artifact],
    champion: Input[Artifact],
    scores: Input[list[Artifact]],
    records: Input[list[Artifact]],
    gate: Output[Artifact],
    metrics: Output[Metrics],
) -> str:
    """May the candidate be registered? Returns where the winning arm's model is, or ''; `gate` says who won."""
    from pathlib import Path

    from drift.config.plan import GateStep
    from drift.gate.champion import champion_scores
    from drift.gate.decision import decide as library
    from drift.tracking.models.ledger import RegistryLedger
    from drift.tracking.steps import finite_metrics, labelled, model_uri, run_step

    arms, out = labelled([one.path for one in scores], "scores.json", "label"), Path(gate.path)
    report = run_step(
        "gate",
        step,
        GateStep,
        lambda config: library(
            config,
            baseline=Path(baseline.path),
            arms=arms,
            champions=champion_scores(Path(champion.path)),
            ledger=RegistryLedger(config.model),
            out=out,
        ),
        record=metrics.path,
        outputs={"gate": gate},
        files=[out / "gate.json", out / "gate.md"],
    )
    metrics.metadata.update(finite_metrics(report))
    return model_uri(report.winner, [Path(one.path) for one in records]) if report.winner else ""
