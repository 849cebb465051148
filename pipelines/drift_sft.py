"""The whole chain: problems to a registered model. Wiring only; what a step does is in the library.

    ingest → generate → curate ─┐
                       deltas ──┼→ for each arm: arm → evaluate ─→ gate → (if passed) register
                 evaluate(VLM) ─┴─────────────────────────────────→ gate → report
      champion → evaluate ──────────────────────────────────────────→ gate

Every argument is the JSON of one step (`drift.plan`). Into the loop go its item, artifacts and arguments of the
pipeline, and never another task's parameter: Kubeflow's local runner would replace it by the item (`pipelines.check`).
"""

from kfp import dsl

from components.arm import arm
from components.champion import champion as champion_step
from components.champion import evaluate_champion as evaluate_champion_step
from components.curate import curate as curate_step
from components.deltas import deltas as deltas_step
from components.evaluate import evaluate_arm as evaluate_arm_step
from components.evaluate import evaluate_vlm as evaluate_vlm_step
from components.finalize import finalize
from components.gate import gate as gate_step
from components.generate import generate as generate_step
from components.ingest import ingest as ingest_step
from components.register import register as register_step
from components.report import report as report_step
from pipelines.tracked import tracked

NAME = "drift-sft"


@dsl.pipeline(name=NAME, description="From image problems and two checkpoints to a registered model.")
def drift_sft(
    ingest: str,
    generate: str,
    curate: str,
    deltas: str,
    evaluate_vlm: str,
    champion: str,
    evaluate_champion: str,
    arms: list[str],
    evaluate_arm: str,
    gate: str,
    register: str,
    report: str,
) -> None:
    """Distil, fine-tune every arm, measure, decide, register."""
    closing = tracked(finalize()).set_caching_options(False)
    with dsl.ExitHandler(closing):
        problems = tracked(ingest_step(step=ingest)).outputs["problems"]
        generations = tracked(generate_step(step=generate, problems=problems)).outputs["generations"]
        curated = tracked(curate_step(step=curate, problems=problems, generations=generations))
        training_set = curated.outputs["training_set"]
        priors = tracked(deltas_step(step=deltas)).outputs["deltas"]
        baseline = tracked(evaluate_vlm_step(step=evaluate_vlm)).outputs["scores"]
        # Who is champion is asked anew in every run; the answer is a parameter, on which its evaluation is cached.
        found = tracked(champion_step(step=champion)).set_caching_options(False).outputs["Output"]
        reigning = tracked(evaluate_champion_step(step=evaluate_champion, champion=found)).outputs["scores"]
        with dsl.ParallelFor(arms) as item:
            made = tracked(arm(step=item, training_set=training_set, deltas=priors))
            scored = tracked(evaluate_arm_step(step=evaluate_arm, arm=item, model=made.outputs["model"]))
        scores, records = scored.outputs["scores"], made.outputs["record"]
        decided = tracked(
            gate_step(
                step=gate,
                baseline=baseline,
                champion=reigning,
                scores=dsl.Collected(scores),
                records=dsl.Collected(records),
            )
        )
        tracked(
            report_step(
                step=report,
                baseline=baseline,
                scores=dsl.Collected(scores),  # a Collected serves one consumer: the compiler changes it
                records=dsl.Collected(records),
                gate=decided.outputs["gate"],
                training_set=training_set,
                deltas=priors,
            )
        )
        with dsl.If(decided.outputs["Output"] != ""):
            tracked(register_step(step=register, gate=decided.outputs["gate"]))
