"""The whole chain: problems to a registered model. Wiring only; what a step does is in the library.

    inputs ┬→ ingest → generate → curate ─┐
           ├→                    deltas ──┼→ for each arm: arm → evaluate ─→ gate → (if passed) register
           └→              evaluate(VLM) ─┴─────────────────────────────────→ gate → report
    champion ─→ start (if training starts from it) ─→ for each arm
             └→ evaluate ──────────────────────────────────────────────────→ gate

With shards (`drift.config.places.Shards`) the teacher's and the models' questions are asked in loops over them:

    for each shard: generate ─→ curate        deltas ─→ for each shard: answer(VLM) ─→ evaluate(VLM)
    for each arm: arm → for each shard: answer ─→ evaluate

The replies of the VLM depend on what lies on the volumes now. Into a loop goes no parameter that says so, but an
artifact that is another one then: the statistics of the Δ, which is made of the same models.

Two steps are never cached, since no parameter says what they ask: what lies on the volumes, who is champion.
Their answers are parameters on which the steps after them are cached. `report` is not either: it says of this run that
it came to its end, and what the gate decided, also where the gate's answer is from the cache.
The gate returns where the winner's model is; an importer gives `register` these files, which it copies into MLflow. It
stands where `register` does: on a cluster an importer finds its address only among the inputs of its own graph.
The unmodified VLM is measured before anything is trained: a number far from its published one shows a wrong set-up.
Every argument is the JSON of one step (`drift.config.plan`). Into the loop go its item, artifacts and arguments of the
pipeline, and never another task's parameter: Kubeflow's local runner would replace it by the item (`pipelines.check`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl

from components.arm import arm
from components.champion import champion as champion_step
from components.champion import evaluate_champion as evaluate_champion_step
from components.champion import start as start_step
from components.curate import curate as curate_step
from components.deltas import deltas as deltas_step
from components.evaluate import evaluate_arm as evaluate_arm_step
from components.evaluate import evaluate_vlm as evaluate_vlm_step
from components.finalize import finalize
from components.gate import gate as gate_step
from components.generate import generate as generate_step
from components.ingest import ingest as ingest_step
from components.inputs import inputs as inputs_step
from components.register import register as register_step
from components.report import report as report_step
from components.sharded import answer_arm as answer_arm_step
from components.sharded import answer_vlm as answer_vlm_step
from components.sharded import curate as curate_shards_step
from components.sharded import evaluate_arm as score_arm_step
from components.sharded import evaluate_vlm as score_vlm_step
from components.sharded import generate as generate_shard_step
from drift.config.places import ONE, Shards
from pipelines.placement import NOTHING, Resources, place, without_gpus
from pipelines.tracked import tracked

NAME = "drift-sft"

SCORERS = ("evaluate_vlm", "evaluate_arm")
"""With shards they score what others have asked, and hold no model."""
Placed = Callable[[dsl.PipelineTask], dsl.PipelineTask]
"""Gives a task its pod's resources, its caching and its run in MLflow."""


def pipeline(resources: Resources, *, caching: bool = True, shards: Shards = ONE) -> Any:
    """The pipeline, each step's pod with what `resources` gives it. The same arguments compile to the same bytes.

    Without `caching` every step runs; Kubeflow's own switch at submission does not reach into loops and exit handlers.
    """

    given = without_gpus(resources, SCORERS) if shards.evaluate > 1 else resources

    def placed(task: dsl.PipelineTask) -> dsl.PipelineTask:
        return place(tracked(task), given).set_caching_options(caching)

    @dsl.pipeline(name=NAME, description="From image problems and two checkpoints to a registered model.")
    def drift_sft(
        inputs: str,
        ingest: str,
        generate: str,
        curate: str,
        deltas: str,
        evaluate_vlm: str,
        champion: str,
        start: str,
        evaluate_champion: str,
        arms: list[str],
        evaluate_arm: str,
        gate: str,
        register: str,
        report: str,
    ) -> None:
        """Distil, fine-tune every arm, measure, decide, register."""
        with dsl.ExitHandler(placed(finalize()).set_caching_options(False)):
            seen = placed(inputs_step(step=inputs)).set_caching_options(False).outputs
            data = distilled(placed, shards, seen, ingest, generate, curate)
            priors = placed(deltas_step(step=deltas, inputs=seen["models"])).outputs
            measured = evaluated_vlm(placed, shards, seen, priors["statistics"], evaluate_vlm)
            begin, reigning = champions(placed, champion, start, evaluate_champion)
            with dsl.ParallelFor(arms) as item:
                made = placed(arm(step=item, training_set=data, deltas=priors["deltas"], start=begin)).after(measured)
                scored = evaluated_arm(placed, shards, item, made, evaluate_arm)
            baseline = measured.outputs["scores"]
            decided = placed(
                gate_step(step=gate, baseline=baseline, champion=reigning, **results(scored, made))
            ).outputs
            used = {"baseline": baseline, "gate": decided["gate"], "training_set": data}
            told = report_step(step=report, statistics=priors["statistics"], **used, **results(scored, made))
            placed(told).set_caching_options(False)
            with dsl.If(decided["Output"] != ""):
                winner = dsl.importer(artifact_uri=decided["Output"], artifact_class=dsl.Model).output
                placed(register_step(step=register, model=winner, gate=decided["gate"]))

    return drift_sft


def distilled(placed: Placed, shards: Shards, seen: Mapping[str, Any], ingest: str, generate: str, curate: str) -> Any:
    """The training set: problems, a teacher's chains of thought on them, and what of these passes."""
    problems = placed(ingest_step(step=ingest, inputs=seen["pool"])).outputs["problems"]
    given = {"step": curate, "problems": problems, "inputs": seen["replay"]}
    if shards.generate == 1:
        generations = placed(generate_step(step=generate, problems=problems)).outputs["generations"]
        return placed(curate_step(generations=generations, **given)).outputs["training_set"]
    with dsl.ParallelFor(list(shards.names("generate"))) as shard:
        drawn = placed(generate_shard_step(step=generate, shard=shard, problems=problems)).outputs["generations"]
    return placed(curate_shards_step(generations=dsl.Collected(drawn), **given)).outputs["training_set"]


def evaluated_vlm(
    placed: Placed, shards: Shards, seen: Mapping[str, Any], statistics: Any, evaluate_vlm: str
) -> dsl.PipelineTask:
    """The scores of the unmodified VLM."""
    if shards.evaluate == 1:
        return placed(evaluate_vlm_step(step=evaluate_vlm, inputs=seen["models"]))
    with dsl.ParallelFor(list(shards.names("answer_vlm"))) as shard:
        asked = placed(answer_vlm_step(step=evaluate_vlm, shard=shard, statistics=statistics))
    return placed(score_vlm_step(step=evaluate_vlm, answers=dsl.Collected(asked.outputs["answers"])))


def evaluated_arm(
    placed: Placed, shards: Shards, item: Any, made: dsl.PipelineTask, evaluate_arm: str
) -> dsl.PipelineTask:
    """The scores of an arm's model: in the loop over the arms, with a loop over the shards in it."""
    model, record = made.outputs["model"], made.outputs["record"]
    if shards.evaluate == 1:
        return placed(evaluate_arm_step(step=evaluate_arm, arm=item, model=model))
    with dsl.ParallelFor(list(shards.names("answer_arm"))) as shard:
        asked = placed(answer_arm_step(step=evaluate_arm, shard=shard, model=model, record=record))
    return placed(score_arm_step(step=evaluate_arm, arm=item, answers=dsl.Collected(asked.outputs["answers"])))


def champions(placed: Placed, champion: str, start: str, evaluate_champion: str) -> tuple[Any, Any]:
    """The champion's model, for training that starts from it, and its scores."""
    found = placed(champion_step(step=champion)).set_caching_options(False).outputs
    begin = placed(start_step(step=start, champion=found["start"])).outputs["model"]
    return begin, placed(evaluate_champion_step(step=evaluate_champion, champion=found["champion"])).outputs["scores"]


def results(scored: dsl.PipelineTask, made: dsl.PipelineTask) -> dict[str, dsl.Collected]:
    """Scores and records of all arms, for one consumer: the compiler changes a Collected."""
    return {"scores": dsl.Collected(scored.outputs["scores"]), "records": dsl.Collected(made.outputs["record"])}


drift_sft = pipeline(NOTHING)
