"""The compiled pipeline: golden, valid for Kubeflow, and without what a local run does silently wrong."""

import copy
import os
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl

from drift.config.chain import Config
from drift.config.section import validate
from drift.ground.errors import PipelineError
from drift.tracking.plugin import CONFIG as PLUGIN
from drift.tracking.plugin import INJECTED
from pipelines.check import dags, require_honest, require_valid
from pipelines.cluster.compile import ARGUMENT_BYTES, compile_pipeline, require_short
from pipelines.placement import Resources

GOLDEN = Path(__file__).parent.parent / "golden" / "drift_sft.yaml"
GOLDEN_SHARDS = GOLDEN.with_name("drift_sft_shards.yaml")

CONFIG = {
    "name": "golden",
    "models": {"vlm": "org/vlm", "expert": "org/expert", "base": "org/base"},
    "ingest": {"source": "org/problems"},
    "generate": {"teacher": {"kind": "endpoint", "base_url": "http://teacher/v1", "model": "teacher"}},
    "arms": {"sft": {"train": {}}, "drift": {"train": {}, "delta": "paper"}},
    "evaluate": {"data": "/mnt", "benchmarks": {"R": {"role": "reasoning"}, "P": {"role": "perception"}}},
    "gate": {"candidate": "drift"},
    "register": {"model": "golden"},
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "drift_sft.yaml"
    compile_pipeline(validate(Config, CONFIG), path)
    return path


@pytest.fixture
def documents(compiled: Path) -> list[dict]:
    return list(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))


def sharded(generate: int, evaluate: int) -> Config:
    shards = {"generate": generate, "evaluate": evaluate}
    return validate(Config, CONFIG | {name: {**CONFIG[name], "shards": count} for name, count in shards.items()})


def require_golden(compiled: Path, golden: Path) -> None:
    if os.environ.get("DRIFT_UPDATE_GOLDEN"):
        golden.write_bytes(compiled.read_bytes())
    message = "the compiled pipeline changed; look at the difference, then DRIFT_UPDATE_GOLDEN=1 writes the new one"
    assert compiled.read_text(encoding="utf-8") == golden.read_text(encoding="utf-8"), message


def test_the_compiled_pipeline_is_the_golden_one(compiled: Path):
    require_golden(compiled, GOLDEN)


def test_the_compiled_pipeline_with_shards_is_the_golden_one(tmp_path: Path):
    compile_pipeline(sharded(2, 3), tmp_path / "shards.yaml")
    require_golden(tmp_path / "shards.yaml", GOLDEN_SHARDS)


@pytest.mark.parametrize(("generate", "evaluate"), [(2, 1), (1, 2)])
def test_the_teacher_or_the_evaluation_alone_may_have_shards(tmp_path: Path, generate: int, evaluate: int):
    compile_pipeline(sharded(generate, evaluate), tmp_path / "some.yaml")
    spec = next(yaml.safe_load_all((tmp_path / "some.yaml").read_text()))
    loops = [task for _, dag in dags(spec) for task in dag["tasks"].values() if "parameterIterator" in task]
    assert len(loops) == (2 if generate > 1 else 3), "over the arms, and the shards of the one or the other"
    own = next(yaml.safe_load_all(GOLDEN.read_text()))["components"]
    same = {"comp-generate", "comp-curate"} if generate == 1 else {"comp-evaluate-vlm", "comp-evaluate-arm"}
    assert all(spec["components"][name] == own[name] for name in same), "what has no shards is the step it was"


def test_where_others_ask_the_evaluations_take_no_gpu(tmp_path: Path):
    gpus = validate(Resources, {"roles": {"evaluate": {"gpus": 2}}}, where="profile")
    compile_pipeline(sharded(2, 2), tmp_path / "gpus.yaml", gpus)
    spec = next(yaml.safe_load_all((tmp_path / "gpus.yaml").read_text()))
    executors = spec["deploymentSpec"]["executors"]
    given = {name for name, one in executors.items() if "accelerator" in one.get("container", {}).get("resources", {})}
    assert given == {f"exec-{step}" for step in ("generate", "answer-vlm", "answer-arm", "evaluate-champion")}


def test_the_item_of_a_loop_does_not_go_into_a_loop_in_it():
    @dsl.component(base_image="python")
    def say(text: str, more: str):
        pass

    @dsl.pipeline(name="nested")
    def nested(names: list[str]):
        with dsl.ParallelFor(names) as name, dsl.ParallelFor(["1", "2"]) as number:
            say(text=name, more=number)

    with pytest.raises(PipelineError, match=r"takes the item .* of the loop around it into a loop"):
        require_honest(json_format.MessageToDict(nested.pipeline_spec))


def test_the_same_configuration_compiles_to_the_same_bytes(compiled: Path, tmp_path: Path):
    compile_pipeline(validate(Config, CONFIG), tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == compiled.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.yaml"]


def test_every_step_has_an_executor_and_the_run_id_is_no_argument(documents: list[dict]):
    spec, platform = documents
    executors = spec["deploymentSpec"]["executors"]
    assert set(executors) == {
        f"exec-{name}" for name in (
            "arm", "champion", "curate", "deltas", "evaluate-arm", "evaluate-champion", "evaluate-vlm", "finalize",
            "gate", "generate", "importer", "ingest", "inputs", "register", "report", "start",
        )
    }  # fmt: skip
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(kubernetes) == set(executors) - {"exec-importer"}, "it runs none of our code"
    assert all(one["fieldPathAsEnv"][0]["name"] == "DRIFT_RUN_ID" for one in kubernetes.values())
    assert "pipeline_job" not in yaml.safe_dump(spec["root"]), "a run id among the arguments would miss every cache"


def test_no_pod_has_a_variable_that_kubeflow_s_own_mlflow_plugin_may_set(documents: list[dict]):
    """The cluster refuses a pod with a variable of two sources: seen with `injectUserEnvVars` on Kubeflow 2.17."""
    kubernetes = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for one in kubernetes.values():
        taken = {key["envVar"]: key["configMapKey"] for given in one["configMapAsEnv"] for key in given["keyToEnv"]}
        assert taken["DRIFT_MLFLOW_TRACKING_URI"] == "MLFLOW_TRACKING_URI"
        assert not {*taken, *(entry["name"] for entry in one["fieldPathAsEnv"])} & {PLUGIN, *INJECTED}


def planted(documents: list[dict], change) -> list[dict]:
    """The documents with a fault in them."""
    faulty = copy.deepcopy(documents)
    change(*faulty)
    return faulty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec, _: spec["root"]["dag"]["tasks"]["finalize"].update(cachingOption={}), "pipeline: not valid"),
        (
            lambda spec, _: spec["deploymentSpec"]["executors"]["exec-arm"]["container"].update(accelerater=1),
            "exec-arm: not valid for Kubeflow Pipelines",
        ),
        (
            lambda spec, _: spec["deploymentSpec"]["executors"].pop("exec-arm"),
            "comp-arm: no executor exec-arm",
        ),
        (lambda spec, _: spec["components"].pop("comp-gate"), "gate: no component comp-gate"),
        (
            lambda spec, _: spec["components"]["comp-gate"]["outputDefinitions"]["artifacts"].pop("gate"),
            "comp-gate has no output gate among its artifacts",
        ),
        (
            lambda spec, _: spec["components"]["comp-exit-handler-1"]["dag"]["tasks"].pop("ingest"),
            "no task ingest in this graph",
        ),
        (
            lambda _, platform: platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-arm"].update(
                tolerationz=[]
            ),
            "exec-arm: not valid for Kubeflow Pipelines",
        ),
    ],
)
def test_a_planted_fault_is_found(documents: list[dict], change, message: str):
    require_valid(*documents)
    with pytest.raises(PipelineError, match=message):
        require_valid(*planted(documents, change))


@dsl.component(base_image="python", install_kfp_package=False)
def decide(text: str, verdict: dsl.Output[dsl.Artifact]) -> str:
    return text


@dsl.component(base_image="python", install_kfp_package=False)
def act(text: str, more: str = "") -> str:
    return text + more


def spec_of(pipeline, tmp_path: Path) -> dict:
    compiler.Compiler().compile(pipeline, str(tmp_path / "p.yaml"))
    return yaml.safe_load((tmp_path / "p.yaml").read_text())


def test_a_condition_on_a_named_output_is_refused_because_it_would_silently_be_false(tmp_path: Path):
    from typing import NamedTuple

    @dsl.component(base_image="python", install_kfp_package=False)
    def gate() -> NamedTuple("Outputs", [("decision", str)]):  # type: ignore[valid-type]
        return ("yes",)

    @dsl.pipeline(name="named")
    def named():
        with dsl.If(gate().outputs["decision"] == "yes"):
            act(text="x")

    with pytest.raises(PipelineError, match=r"condition-1: its condition reads pipelinechannel--gate-decision"):
        require_honest(spec_of(named, tmp_path))


def test_a_parameter_of_another_task_in_a_loop_is_refused_because_the_item_would_replace_it(tmp_path: Path):
    @dsl.pipeline(name="loop")
    def loop(items: list[str]):
        upstream = act(text="UPSTREAM")
        with dsl.ParallelFor(items) as item:
            act(text=item, more=upstream.output)

    with pytest.raises(PipelineError, match="takes the parameter pipelinechannel--act-Output of task act into a loop"):
        require_honest(spec_of(loop, tmp_path))


def test_loops_over_a_task_s_list_and_conditions_on_a_return_value_are_fine(tmp_path: Path):
    @dsl.component(base_image="python", install_kfp_package=False)
    def items() -> list[str]:
        return ["a"]

    @dsl.pipeline(name="fine")
    def fine():
        with dsl.ParallelFor(items().output) as item:
            act(text=item)
        with dsl.If(decide(text="yes").outputs["Output"] != ""):
            act(text="x")

    require_honest(spec_of(fine, tmp_path))


def test_our_own_pipeline_is_honest(documents: list[dict]):
    require_honest(documents[0])
    conditions = [
        task["triggerPolicy"]["condition"]
        for task in documents[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"].values()
        if "triggerPolicy" in task
    ]
    assert conditions == ["inputs.parameter_values['pipelinechannel--gate-Output'] != ''"]


def test_the_winner_is_imported_where_a_cluster_finds_its_address(documents: list[dict]):
    """KFP's importer looks for a runtime address among the inputs of the graph it stands in alone
    (backend/src/v2/component/importer_launcher.go, ImportSpecToMLMDArtifact)."""
    spec = documents[0]
    (branch,) = [dag for name, dag in dags(spec) if "importer" in dag["tasks"]]
    address = spec["deploymentSpec"]["executors"]["exec-importer"]["importer"]["artifactUri"]["runtimeParameter"]
    source = branch["tasks"]["importer"]["inputs"]["parameters"][address]
    assert source == {"componentInputParameter": "pipelinechannel--gate-Output"}
    (condition,) = [one for one in spec["components"].values() if one.get("dag") == branch]
    assert "pipelinechannel--gate-Output" in condition["inputDefinitions"]["parameters"]


def test_an_importer_beside_the_task_that_names_its_address_is_refused(tmp_path: Path):
    @dsl.component(base_image="python", install_kfp_package=False)
    def read(model: dsl.Input[dsl.Model]):
        pass

    @dsl.pipeline(name="beside")
    def beside():
        address = decide(text="s3://bucket/model").outputs["Output"]
        read(model=dsl.importer(artifact_uri=address, artifact_class=dsl.Model).output)

    with pytest.raises(PipelineError, match="root/importer: imports an address from a task beside it; on a cluster"):
        require_valid(spec_of(beside, tmp_path), None)


@pytest.mark.parametrize("name", ["pipeline.json", "/proc/none/pipeline.yaml"])
def test_an_output_that_cannot_be_written_is_named(name: str, tmp_path: Path):
    with pytest.raises(PipelineError, match=name):
        compile_pipeline(validate(Config, CONFIG), tmp_path / name)


@pytest.mark.parametrize(("filler", "bytes_each"), [("a", 1), ("Δ", 2), ("<", 6)])
def test_parameters_as_long_as_an_argument_may_be_pass_and_a_byte_more_is_refused(filler: str, bytes_each: int):
    empty = len('{"step":""}')
    rest, more = divmod(ARGUMENT_BYTES - empty, bytes_each)
    value = filler * rest + "a" * more
    require_short({"step": value}, {"generate": value, "gate": "{}"})
    with pytest.raises(
        PipelineError, match=r"^generate: [\d,]+ of the 131,072 bytes .* at most 131,071 on: shorten it"
    ):
        require_short({"step": value + "a"}, {"generate": value + "a", "gate": "{}"})


def test_more_arms_than_a_cluster_passes_on_are_refused_before_anything_is_sent(tmp_path: Path):
    arms = {f"arm-{place}": {"train": {}} for place in range(200)}
    config = validate(Config, CONFIG | {"arms": arms, "gate": {"candidate": "arm-0"}})
    with pytest.raises(PipelineError, match=r"^arms \(200 arms\): [\d,]+ of the [\d,]+ bytes"):
        compile_pipeline(config, tmp_path / "many.yaml")
    assert list(tmp_path.iterdir()) == []


def test_the_images_come_from_the_environment(tmp_path: Path):
    import subprocess
    import sys

    code = (
        "from pipelines.drift_sft import drift_sft; from kfp import compiler;"
        f"compiler.Compiler().compile(drift_sft, {str(tmp_path / 'p.yaml')!r})"
    )
    root = Path(__file__).parent.parent.parent
    environment = os.environ | {"DRIFT_IMAGE_TRAIN": "registry/train-python@sha256:1", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    spec = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    executors = spec["deploymentSpec"]["executors"].items()
    images = {name: one["container"]["image"] for name, one in executors if "container" in one}
    assert images["exec-arm"] == "registry/train-python@sha256:1"
    assert images["exec-gate"] == "drift-pipeline-python:0.1.0"


def test_the_local_runner_reads_the_same_specification(documents: list[dict]):
    from pipelines.drift_sft import drift_sft

    own = json_format.MessageToDict(drift_sft.pipeline_spec)
    assert own["components"] == documents[0]["components"]


def test_a_schedule_asks_anew_what_the_inputs_are_and_the_steps_are_cached_on_the_answer(documents: list[dict]):
    tasks = documents[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    uncached = {name for name, task in tasks.items() if task.get("cachingOptions") == {}}
    assert uncached == {"inputs", "champion", "report"}, "and the report says of every run that it came to its end"
    assert documents[0]["root"]["dag"]["tasks"]["finalize"]["cachingOptions"] == {}
    readers = {"ingest": "pool", "curate": "replay", "deltas": "models", "evaluate-vlm": "models"}
    for reader, what in readers.items():
        answer = {"taskOutputParameter": {"outputParameterKey": what, "producerTask": "inputs"}}
        assert tasks[reader]["inputs"]["parameters"]["inputs"] == answer
