"""Doors of the steps that share their work in shards, and of those that take all shards' outputs together.

`shard` is an item of a loop, such as `1/2`. Into the loop over an arm's shards goes no item of the loop around it:
Kubeflow's local runner would replace it by the inner one (`pipelines.check`), so the arm's record says whose model it
is.
"""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components._images import image


@dsl.component(base_image=image("generate"), install_kfp_package=False)
def generate(
    step: str, shard: str, problems: Input[Dataset], generations: Output[Dataset], metrics: Output[Metrics]
) -> None:
    """The teacher writes chains of thought on the problems of a shard."""
    from pathlib import Path

    from drift.config.data import GenerateConfig
    from drift.data.chains.distillation import generate as library
    from drift.data.chains.shards import Shard
    from drift.tracking.steps import finite_metrics, run_step

    source, out = Path(problems.path), Path(generations.path)
    report = run_step(
        "generate",
        step,
        GenerateConfig,
        lambda config: library(config, source, out, Shard.parse(shard)),
        record=metrics.path,
        outputs={"generations": generations},
        arm=shard,
        files=[out / "generations.json"],
        datasets={"problems": source},
    )
    metrics.metadata.update(finite_metrics(report))


@dsl.component(base_image=image("curate"), install_kfp_package=False)
def curate(
    step: str,
    problems: Input[Dataset],
    generations: Input[list[Dataset]],
    training_set: Output[Dataset],
    metrics: Output[Metrics],
    inputs: str = "",
) -> None:
    """As the step of one shard, from the chains of all. `inputs`: the replay's hash."""
    from pathlib import Path

    from drift.config.data import CurateConfig
    from drift.data.chains.shards import named
    from drift.data.selection.curation import curate as library
    from drift.tracking.steps import finite_metrics, run_step

    source, out = Path(problems.path), Path(training_set.path)
    chains = [Path(one.path) for one in generations]
    report = run_step(
        "curate",
        step,
        CurateConfig,
        lambda config: library(config, source, chains, out),
        record=metrics.path,
        outputs={"training_set": training_set},
        files=[out / "funnel.json"],
        datasets={"problems": source, **named("generations", chains)},
    )
    metrics.metadata.update(finite_metrics(report))


@dsl.component(base_image=image("answer_vlm"), install_kfp_package=False)
def answer_vlm(
    step: str, shard: str, statistics: Input[Artifact], answers: Output[Artifact], metrics: Output[Metrics]
) -> None:
    """Replies of the unmodified VLM to the questions of a shard. `statistics`: of the same models' Δ, for the cache."""
    from pathlib import Path

    from drift.config.plan import BaselineStep
    from drift.data.chains.shards import Shard
    from drift.evaluate.shards import answer
    from drift.tracking.steps import finite_metrics, run_step

    part, out = Shard.parse(shard), Path(answers.path)
    report = run_step(
        "answer_vlm",
        step,
        BaselineStep,
        lambda config: answer(config.evaluate, model=config.vlm, label="vlm", shard=part, out=out),
        record=metrics.path,
        outputs={"answers": answers},
        arm=shard,
        files=[out / "answers.json"],
    )
    metrics.metadata.update(finite_metrics(report))


@dsl.component(base_image=image("evaluate_vlm"), install_kfp_package=False)
def evaluate_vlm(step: str, answers: Input[list[Artifact]], scores: Output[Artifact], metrics: Output[Metrics]) -> None:
    """Scores of the unmodified VLM, from its replies of all shards."""
    from pathlib import Path

    from drift.config.plan import BaselineStep
    from drift.evaluate.shards import score_answers
    from drift.tracking.steps import finite_metrics, run_step

    known, out = [Path(one.path) for one in answers], Path(scores.path)
    report = run_step(
        "evaluate_vlm",
        step,
        BaselineStep,
        lambda config: score_answers(config.evaluate, answers=known, out=out),
        record=metrics.path,
        outputs={"scores": scores},
        files=[out / "scores.json"],
    )
    metrics.metadata.update(finite_metrics(report))


@dsl.component(base_image=image("answer_arm"), install_kfp_package=False)
def answer_arm(
    step: str,
    shard: str,
    model: Input[Model],
    record: Input[Artifact],
    answers: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Replies of an arm's model to the questions of a shard."""
    from pathlib import Path

    from drift.config.evaluate import EvaluateConfig
    from drift.config.places import place
    from drift.data.chains.shards import Shard
    from drift.evaluate.shards import answer
    from drift.tracking.steps import finite_metrics, recorded_arm, run_step

    name, part, out = recorded_arm(record.path), Shard.parse(shard), Path(answers.path)
    report = run_step(
        "answer_arm",
        step,
        EvaluateConfig,
        lambda config: answer(config, model=model.path, label=name, shard=part, out=out),
        record=metrics.path,
        outputs={"answers": answers},
        arm=place(name, shard),
        files=[out / "answers.json"],
    )
    metrics.metadata.update(finite_metrics(report))


@dsl.component(base_image=image("evaluate_arm"), install_kfp_package=False)
def evaluate_arm(
    step: str, arm: str, answers: Input[list[Artifact]], scores: Output[Artifact], metrics: Output[Metrics]
) -> None:
    """Scores of an arm's model, from its replies of all shards."""
    from pathlib import Path

    from drift.config.evaluate import EvaluateConfig
    from drift.evaluate.shards import score_answers
    from drift.tracking.steps import arm_of, finite_metrics, run_step

    known, out = [Path(one.path) for one in answers], Path(scores.path)
    report = run_step(
        "evaluate_arm",
        step,
        EvaluateConfig,
        lambda config: score_answers(config, answers=known, out=out),
        record=metrics.path,
        outputs={"scores": scores},
        arm=arm_of(arm),
        files=[out / "scores.json"],
    )
    metrics.metadata.update(finite_metrics(report))
