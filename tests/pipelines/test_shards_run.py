"""Loops over shards on this machine: real step processes of real doors, in the arms' loop too; one fails."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from kfp import dsl

from components import curate, generate, ingest, sharded
from drift.config.places import Places, Shards
from drift.data.chains.shards import Shard
from drift.ground.errors import PipelineError
from pipelines.cluster.graph import iterations, moved
from pipelines.cluster.states import places_of
from pipelines.local.folders import _phase
from pipelines.local.kubeflow import run_pipeline
from pipelines.local.past import task_folders
from pipelines.local.runner import Chain
from pipelines.local.work import ForkServer
from tests.openai_server import Body, OpenAIServer, question
from tests.pool_rows import pool_row, write_pool

SHARDS = Shards(generate=2, evaluate=3)
PLACES = Places(("sft", "drift"), SHARDS)


@dsl.component(base_image="python", install_kfp_package=False)
def arm(step: str, model: dsl.Output[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]):
    from pathlib import Path

    from drift.config.gate import RegisterConfig
    from drift.tracking.steps import run_step

    class Report:
        def metrics(self):
            return {"one": 1.0}

    def work(config):
        Path(model.path).write_text(config.model)
        return Report()

    run_step("arm", step, RegisterConfig, work, record=metrics.path)


@dsl.component(base_image="python", install_kfp_package=False)
def answer_arm(
    shard: str, model: dsl.Input[dsl.Artifact], answers: dsl.Output[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]
):
    from pathlib import Path

    from drift.ground.artifacts import write_json

    Path(answers.path).write_text(f"{Path(model.path).read_text()} {shard}")
    write_json(Path(metrics.path), {"key": "", "step": "answer_arm", "warnings": [], "metrics": {}})


@dsl.component(base_image="python", install_kfp_package=False)
def evaluate_arm(
    arm: str,
    answers: dsl.Input[list[dsl.Artifact]],
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    from pathlib import Path

    from drift.ground.artifacts import write_json

    Path(scores.path).write_text(", ".join(Path(one.path).read_text() for one in answers))
    write_json(Path(metrics.path), {"key": "", "step": "evaluate_arm", "warnings": [], "metrics": {}})


@dsl.pipeline(name="nested")
def nested(arms: list[str]):
    with dsl.ParallelFor(arms) as item:
        made = arm(step=item)
        with dsl.ParallelFor(list(SHARDS.names("answer_arm"))) as shard:
            asked = answer_arm(shard=shard, model=made.outputs["model"])
        evaluate_arm(arm=item, answers=dsl.Collected(asked.outputs["answers"]))


@dsl.pipeline(name="alone")
def alone(ingest_: str, generate_: str, curate_: str):
    problems = ingest.ingest(step=ingest_).outputs["problems"]
    drawn = generate.generate(step=generate_, problems=problems).outputs["generations"]
    curate.curate(step=curate_, problems=problems, generations=drawn)


@dsl.pipeline(name="together")
def together(ingest_: str, generate_: str, curate_: str):
    problems = ingest.ingest(step=ingest_).outputs["problems"]
    with dsl.ParallelFor(list(SHARDS.names("generate"))) as shard:
        drawn = sharded.generate(step=generate_, shard=shard, problems=problems).outputs["generations"]
    sharded.curate(step=curate_, problems=problems, generations=dsl.Collected(drawn))


class Run:
    """A run in a folder of its own, and what it told."""

    def __init__(self, folder: Path, server: ForkServer) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.told = folder, list[tuple[str, str, str]]()
        environment = {"DRIFT_RUN_DIR": str(folder), "DRIFT_RUN_ID": folder.name, "TMPDIR": str(folder)}
        self.chain = Chain(folder, folder.name, PLACES, environment, self._hear, server)

    def _hear(self, event: Any) -> None:
        self.told.append((event.step, event.arm, event.state))

    def go(self, pipeline: Any, **arguments: Any) -> None:
        run_pipeline(pipeline.pipeline_spec, arguments, self.chain, cache_root=self.folder.parent / "cache")


def parameter(**section: Any) -> str:
    return json.dumps({"config": section, "code": "", "inputs": {}})


def test_the_shards_of_each_arm_are_asked_its_own_model_and_collected_in_its_iteration(
    tmp_path: Path, server: ForkServer
):
    run = Run(tmp_path / "r1", server)
    run.go(nested, arms=[parameter(model=name) for name in PLACES.arms])
    ended = sorted(f"{step} {place}" for step, place, state in run.told if state == "finished")
    expected = [f"{step} {place}" for step in ("arm", "answer_arm", "evaluate_arm") for place in PLACES.every(step)]
    assert ended == sorted(expected) and len(expected) == 2 + 6 + 2
    written = [path.read_text() for path in task_folders(run.folder) for path in path.glob("scores")]
    assert written == [", ".join(f"{name} {shard}" for shard in ("1/3", "2/3", "3/3")) for name in PLACES.arms]


class Teacher(OpenAIServer):
    """Always right, but refuses the problems of these numbers."""

    def __init__(self) -> None:
        super().__init__(right)
        self.refused: set[int] = set()

    def complete(self, body: Body, headers: dict[str, str]) -> tuple[int, Body | str]:
        if number_of(body) in self.refused:
            return 400, {"error": {"message": "too long"}}
        return super().complete(body, headers)


def number_of(body: Body) -> int:
    return int(question(body).split()[1])


def right(body: Body) -> Body:
    return {"content": f"<think> seed {body['seed']} </think>\n\\boxed{{{number_of(body) + 1}}}"}


def parameters(folder: Path, url: str) -> dict[str, str]:
    pool = write_pool(folder / "pool.parquet", [pool_row(number) for number in range(16)])
    served = {"kind": "endpoint", "base_url": url, "model": "served", "api_key_env": None, "max_retries": 0}
    served["concurrency"] = 1
    return {
        "ingest_": parameter(source=str(pool)),
        "generate_": parameter(teacher=served, samples=2, max_failed=0),
        "curate_": parameter(keep=None),
    }


def test_a_shard_that_fails_goes_on_alone_and_the_training_set_is_that_of_one_step(tmp_path: Path, server: ForkServer):
    with Teacher() as asked:
        given = parameters(tmp_path, asked.url)
        one = Run(tmp_path / "one", server)
        one.go(alone, **given)
        assert len(asked.requests) == 2 * 16
        rows = pq.read_table(next(one.folder.glob("tasks/ingest/problems/problems.parquet"))).to_pylist()
        mine = [int(row["problem"].split()[1]) for row in rows if Shard(2, 2).holds(row["id"])]
        asked.refused = {mine[-1]}  # the last of the second shard
        first = Run(tmp_path / "shards", server)
        with pytest.raises(PipelineError, match=r"^step generate of shard '2/2': generate\.max_failed"):
            first.go(together, **given)
        asked.refused = set()
        again = Run(tmp_path / "shards", server)
        again.go(together, **given)
    drawn = {(done.record["arm"], done.cached) for done in again.chain.done if done.record["step"] == "generate"}
    assert ("generate", "1/2", "finished") in first.told and drawn == {("1/2", True), ("2/2", False)}
    assert len(asked.requests) == 2 * (2 * 16), "what was drawn before the failure is not drawn again"
    sets = [next(run.folder.glob("tasks/curate/training_set/train.parquet")) for run in (one, again)]
    assert sets[0].read_bytes() == sets[1].read_bytes()


def test_a_task_is_known_by_its_place_and_found_by_its_iterations():
    assert PLACES.every("generate") == ["1/2", "2/2"] and PLACES.every("gate") == [""]
    assert Places(("a",)).every("generate") == [""] and Places(("a",)).every("answer_vlm") == []
    for step in ("arm", "generate", "answer_vlm", "answer_arm", "evaluate_arm"):
        for place in PLACES.every(step):
            assert PLACES.of(step, PLACES.iterations(step, place)) == place
    assert PLACES.of("answer_arm", (1, 2)) == "drift 3/3" and PLACES.of("gate", ()) == ""
    assert Places().of("answer_arm", (1, 2)) == "#2 #3" and PLACES.iterations("arm", "ties") == ()
    assert [_phase(*task) for task in (("generate", "1/2"), ("answer_arm", "sft 1/3"), ("arm", "sft"))] == [
        "generate", "evaluate", "arm sft"
    ]  # fmt: skip


def test_on_a_cluster_the_places_are_read_off_the_run_and_argo_s_graph():
    arms = [parameter(name=name) for name in PLACES.arms]
    given = {"generate": parameter(shards=2), "evaluate_arm": parameter(shards=3)}
    inputs = {name: {"defaultValue": text} for name, text in given.items()}
    spec = {"root": {"inputDefinitions": {"parameters": inputs}}}
    assert places_of(spec, {"parameters": {"arms": arms}}) == PLACES
    assert places_of({}, {}) == Places()
    path = "w.root.exit-handler-1.for-loop-6.iteration(1:1).for-loop-8(0).iteration(2:2).answer-arm"
    assert iterations(path) == (1, 2)
    assert moved(path, (0, 1)) == path.replace("(1:1)", "(0:0)").replace("(2:2)", "(1:1)")
