"""What a cluster receives of `drift rehearse --runner kubeflow` really runs, in containers that get what pods get.

Runs with `make test-services`: needs Docker and the images of `make images`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec
from mlflow import MlflowClient

import docker
from components._images import IMAGES
from drift.config.file import load
from drift.config.places import Places
from drift.config.plan import plan
from drift.planning.rehearsal import IN_IMAGES, rehearsal_of
from pipelines.check import check_spec
from pipelines.cluster.server import Target
from pipelines.doctor import examine
from pipelines.local.kubeflow import run_pipeline
from pipelines.local.run import require_planned
from pipelines.local.runner import Chain
from pipelines.rehearsal import rehearse_on
from tests.end_to_end import chain
from tests.kfp_server import Body, KubeflowServer
from tests.kubernetes_server import MLFLOW, Namespace
from tests.mlflow_server import mlflow_server

RUN_ID = "5a3c0c1e"
CONTAINED = {
    "network_mode": "host",
    "read_only": True,
    "tmpfs": {"/tmp": "mode=1777,exec"},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


@pytest.fixture
def writable(tmp_path: Path) -> Iterator[Path]:
    """A pipeline root in which the images' user may write, as each pod may in its own."""
    before = os.umask(0)
    (tmp_path / "root").mkdir()
    yield tmp_path / "root"
    os.umask(before)


def submitted(config: Path) -> Body:
    """What the server gets."""
    planned = plan(load(config), local=False).tasks(registers=True)
    tasks = {f"{step}/{arm}" if arm else step: ("SUCCEEDED",) for step, arm in planned}
    with KubeflowServer(tasks=tasks) as server:
        rehearse_on(load(config), Target(server.url), poll_seconds=0.01)
        (run,) = server.runs.values()
    return run["pipeline_spec"]


def environment(platform: Body, config_map: dict[str, str]) -> dict[str, str]:
    """What the cluster puts into a step's pod: the run's id, and what the step takes of the ConfigMap."""
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-register"]
    (run_id,), (mapped,) = pod["fieldPathAsEnv"], pod["configMapAsEnv"]
    taken = {key["envVar"]: config_map.get(key["configMapKey"]) for key in mapped["keyToEnv"]}
    return {run_id["name"]: RUN_ID, **{name: value for name, value in taken.items() if value is not None}}


def test_the_images_hold_all_that_the_pods_of_a_rehearsal_need(tmp_path: Path, writable: Path) -> None:
    config = load(chain.two_arms(tmp_path))
    sent = submitted(tmp_path / "config.yaml")
    spec = json_format.ParseDict(sent["pipeline_spec"], PipelineSpec())
    steps = Chain(writable, RUN_ID, Places(tuple(config.arms)), {}, None)
    with mlflow_server(tmp_path) as address:
        given = environment(sent["platform_spec"], {"MLFLOW_TRACKING_URI": address, "DRIFT_EXPERIMENT": "drift"})
        containers = {**CONTAINED, "environment": {**given, "OMP_NUM_THREADS": "1"}}
        run_pipeline(spec, {}, steps, cache_root=tmp_path / "cache", use_cache=False, containers=containers)
        client = MlflowClient(address)
        champion = client.get_model_version_by_alias("qwen2_5_vl_7b-drift-rehearsal", "champion")
        experiment = client.get_experiment_by_name("drift")
        runs = client.search_runs([experiment.experiment_id])
    require_planned(plan(rehearsal_of(config, IN_IMAGES, gpu=False), local=False), steps.done, passed=True)
    assert champion.version == "1"
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {path.stat().st_uid for path in writable.rglob("model.safetensors")} == {10001}


def in_its_image(image: str, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a pod's command as a node would: in its image, as the image's user."""
    with contextlib.closing(docker.from_env()) as client:
        container = client.containers.run(image, command, environment=environment, network_mode="host", detach=True)
        try:
            return container.wait()["StatusCode"], container.logs().decode()
        finally:
            container.remove()


def test_the_doctor_looks_from_pods_of_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(chain.ROOT / "configs" / "miniature.yaml", [f"runs={tmp_path}"])
    with mlflow_server(tmp_path) as address, Namespace(config={MLFLOW: address}, start=in_its_image) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = {one.check: one for one in examine(config, pods=("pipeline", "evaluate"))}
    assert found["pipeline pod: MLflow"].detail.startswith(address)
    passed = ("pipeline pod", "pipeline pod: promotion", "pipeline pod: kfp", "evaluate pod: VLMEvalKit")
    assert [found[name].state for name in passed] == ["passed"] * 4, found
    assert found["evaluate pod: GPU"].state == "note"
    assert not [one for one in found.values() if one.is_problem and "pod" in one.check]


def test_the_pipeline_image_alone_compiles_and_submits(tmp_path: Path) -> None:
    """As a CI job or a pod has it: no checkout, a configuration from outside."""
    config = tmp_path / "mine.yaml"
    config.write_bytes((chain.ROOT / "configs" / "miniature.yaml").read_bytes())
    config.chmod(0o644)
    command = "drift compile -c /given.yaml --out /tmp/chain.yaml && drift submit -c /given.yaml --host $HOST --no-wait"
    mounts = {str(config): {"bind": "/given.yaml", "mode": "ro"}}
    with KubeflowServer() as server:
        docker.from_env().containers.run(
            IMAGES["pipeline"], ["sh", "-c", command], environment={"HOST": server.url}, volumes=mounts, remove=True,
            working_dir="/tmp", **CONTAINED,
        )  # fmt: skip
        (sent,) = server.runs.values()
    check_spec(sent["pipeline_spec"]["pipeline_spec"], sent["pipeline_spec"]["platform_spec"])
