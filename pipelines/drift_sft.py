"""The whole chain: problems to a registered model. Wiring only; what a step does is in the library.

    inputs ┬→ ingest → generate → curate ─┐
           ├→                    deltas ──┼→ for each arm: arm → evaluate ─→ gate → (if passed) register
           └→              evaluate(VLM) ─┴─────────────────────────────────→ gate → report
    champion ─→ start (if training starts from it) ─→ for each arm
             └→ evaluate ──────────────────────────────────────────────────→ gate

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
from pipelines.placement import NOTHING, Resources, place
from pipelines.tracked import tracked

NAME = "drift-sft"


Placed = Callable[[dsl.PipelineTask], dsl.PipelineTask]
"""Gives a task its pod's resources, its caching and its run in MLflow."""


def pipeline(resources: Resources, *, caching: bool = True) -> Any:
    """The pipeline, each step's pod with what `resources` gives it. The same resources compile to the same bytes.

    Without `caching` every step runs; Kubeflow's own switch at submission does not reach into loops and exit handlers.
    """

    def placed(task: dsl.PipelineTask) -> dsl.PipelineTask:
        return place(tracked(task), resources).set_caching_options(caching)

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
            data = distilled(placed, seen, ingest, generate, curate)
            priors = placed(deltas_step(step=deltas, inputs=seen["models"])).outputs
            measured = placed(evaluate_vlm_step(step=evaluate_vlm, inputs=seen["models"]))
            begin, reigning = champions(placed, champion, start, evaluate_champion)
            with dsl.ParallelFor(arms) as item:
                made = placed(arm(step=item, training_set=data, deltas=priors["deltas"], start=begin)).after(measured)
                scored = placed(evaluate_arm_step(step=evaluate_arm, arm=item, model=made.outputs["model"]))
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


def distilled(placed: Placed, seen: Mapping[str, Any], ingest: str, generate: str, curate: str) -> Any:
    """The training set: problems, a teacher's chains of thought on them, and what of these passes."""
    problems = placed(ingest_step(step=ingest, inputs=seen["pool"])).outputs["problems"]
    generations = placed(generate_step(step=generate, problems=problems)).outputs["generations"]
    curated = curate_step(step=curate, problems=problems, generations=generations, inputs=seen["replay"])
    return placed(curated).outputs["training_set"]


def champions(placed: Placed, champion: str, start: str, evaluate_champion: str) -> tuple[Any, Any]:
    """The champion's model, for training that starts from it, and its scores."""
    found = placed(champion_step(step=champion)).set_caching_options(False).outputs
    begin = placed(start_step(step=start, champion=found["start"])).outputs["model"]
    return begin, placed(evaluate_champion_step(step=evaluate_champion, champion=found["champion"])).outputs["scores"]


def results(scored: dsl.PipelineTask, made: dsl.PipelineTask) -> dict[str, dsl.Collected]:
    """Scores and records of all arms, for one consumer: the compiler changes a Collected."""
    return {"scores": dsl.Collected(scored.outputs["scores"]), "records": dsl.Collected(made.outputs["record"])}


drift_sft = pipeline(NOTHING)
