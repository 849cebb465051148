"""The step that trains, by a profile with several nodes: what its own pod gets, and what its nodes."""

import json
from pathlib import Path

import pytest
import yaml

from drift.config.nodes import NODES, SHARED, Nodes
from drift.config.section import from_json, validate
from drift.tracking.runs.origin import IMAGE
from drift.training.nodes.trainjob import CONTAINER, manifest
from pipelines.cluster.rights import RIGHTS
from pipelines.placement import Resources, gpus_of, read_resources
from tests.pipelines.test_placement import executors_of
from tests.pod_security import refusals
from tests.trainer_server import invalid

PROFILE = Path(__file__).parents[2] / "configs" / "resources" / "several_nodes.yaml"
EVERYTHING = {
    "nodes": 2, "gpus": 8, "cpu": "64", "cpu_request": "32", "memory": "1024Gi", "shm": "64Gi", "run_as_user": 10001,
    "volumes": [
        {"claim": "drift-models", "path": "/models"},
        {"claim": "drift-models", "path": "/more", "sub_path": "more"},
        {"claim": "drift-scratch", "path": "/scratch"},
    ],
    "secrets": [{"name": "huggingface", "env": {"token": "HF_TOKEN"}}],
    "env": {"NCCL_DEBUG": "WARN"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "node_selector": {"pool": "h100"},
    "node_affinity": [
        {"match": [{"key": "gpu", "values": ["h100"]}]},
        {"match": [{"key": "spot", "operator": "DoesNotExist"}], "weight": 10},
    ],
    "labels": {"kueue.x-k8s.io/queue-name": "drift", "team": "vision"},
    "annotations": {"a": "b"}, "timeout_seconds": 3600, "retries": 2,
}  # fmt: skip


def compiled(folder: Path, train: dict, **more: object) -> tuple[dict, dict]:
    """The executor of the training, of the pipeline and of the platform."""
    shared = {"shared": {"claim": "drift-scratch", "path": "/scratch"}}
    profile = validate(Resources, {**shared, "roles": {"train": train}, **more})
    pipeline, platform = executors_of(folder, profile)
    return pipeline["arm"]["container"], platform["arm"]


def variables(container: dict) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container.get("env", [])}


def test_the_pod_that_watches_gets_no_gpu_no_queue_and_no_deadline(tmp_path: Path) -> None:
    container, pod = compiled(tmp_path, EVERYTHING)
    assert "accelerator" not in container["resources"]
    assert container["resources"]["resourceMemoryLimit"] == "16Gi"
    assert not {"emptyDirMounts", "tolerations", "nodeSelector", "nodeAffinity", "activeDeadlineSeconds"} & set(pod)
    assert pod["podMetadata"]["labels"] == {"team": "vision"}
    assert {one["name"]: one["fieldPath"] for one in pod["fieldPathAsEnv"]}["DRIFT_NAMESPACE"] == "metadata.namespace"
    paths = [one["mountPath"] for one in pod["pvcMount"]]
    assert sorted(paths) == ["/models", "/more", "/scratch"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_ranks_of_a_profile_are_in_the_steps_parameter_where_the_cache_sees_them(
    tmp_path: Path, nodes: int
) -> None:
    compiled(tmp_path, {**EVERYTHING, "nodes": nodes})
    pipeline, _ = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    arms = pipeline["root"]["inputDefinitions"]["parameters"]["arms"]["defaultValue"]
    assert {json.loads(arm)["config"]["train"]["processes"] for arm in arms} == {8 * nodes}


def test_all_that_a_profile_gives_a_training_is_in_a_trainjob_that_its_definition_allows(tmp_path: Path) -> None:
    container, _ = compiled(tmp_path, EVERYTHING, pull_secrets=["registry"], runtime="ours")
    nodes = from_json(Nodes, variables(container)[NODES])
    body = manifest(nodes, "drift-0123abcd-main-89abcdef", Path("/scratch/job.json"), run="0123")
    assert invalid(body["spec"]) == ""
    assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "drift"
    trainer, (patch,) = body["spec"]["trainer"], body["spec"]["runtimePatches"]
    assert trainer["image"] == container["image"]
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "32", "memory": "1024Gi", "nvidia.com/gpu": "8"},
        "limits": {"cpu": "64", "memory": "1024Gi", "nvidia.com/gpu": "8"},
    }
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "huggingface", "key": "token"}}} in trainer[
        "env"
    ]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = job["template"]["spec"]["template"]
    assert template["metadata"]["labels"] == {"sidecar.istio.io/inject": "false", "team": "vision"}
    assert template["spec"]["securityContext"] == {"runAsUser": 10001}
    places = [one["mountPath"] for one in template["spec"]["containers"][0]["volumeMounts"]]
    assert places == ["/scratch", "/models", "/more", "/dev/shm"]
    assert body["spec"]["runtimeRef"]["name"] == "ours" and body["spec"]["activeDeadlineSeconds"] == 3600


def test_the_exit_handler_knows_that_nodes_may_be_left(tmp_path: Path) -> None:
    pipeline, platform = executors_of(tmp_path, read_resources(PROFILE))
    assert NODES in variables(pipeline["finalize"]["container"])
    assert "DRIFT_NAMESPACE" in {one["name"] for one in platform["finalize"]["fieldPathAsEnv"]}


def test_the_runtime_ends_all_nodes_with_one_and_is_what_restricted_namespaces_admit() -> None:
    runtime = yaml.safe_load((PROFILE.parents[1] / "kubeflow" / "runtime.yaml").read_text(encoding="utf-8"))
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    assert runtime["metadata"]["name"] == Resources().runtime
    assert runtime["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert job["name"] == CONTAINER and job["template"]["spec"]["backoffLimit"] == 0
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and [one["name"] for one in pod["containers"]] == [CONTAINER]
    assert refusals(pod) == set()


def test_the_role_of_the_steps_account_is_what_doctor_asks_for() -> None:
    role, _ = yaml.safe_load_all((PROFILE.parents[1] / "kubeflow" / "rights.yaml").read_text(encoding="utf-8"))
    given = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {
        (group, "/".join(filter(None, (resource, sub))), verb)
        for group, resource, sub, verbs in RIGHTS
        for verb in verbs
    }
    assert given == asked


def test_one_node_keeps_its_gpus_and_its_checkpoints_go_to_the_claim(tmp_path: Path) -> None:
    container, pod = compiled(tmp_path, {"gpus": 8, "labels": {"kueue.x-k8s.io/queue-name": "drift"}})
    assert container["resources"]["accelerator"]["count"] == "8"
    assert variables(container) == {IMAGE: container["image"], SHARED: "/scratch"}
    assert [one["mountPath"] for one in pod["pvcMount"]] == ["/scratch"]
    assert pod["podMetadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "drift"}


def test_without_a_shared_claim_nothing_changes(tmp_path: Path) -> None:
    container, _ = executors_of(tmp_path, validate(Resources, {"roles": {"train": {"gpus": 8}}}))
    assert set(variables(container["arm"]["container"])) == {IMAGE}


def test_the_gpus_of_all_nodes_are_counted_where_a_plan_is_made() -> None:
    assert gpus_of(read_resources(PROFILE)) == {"arm": 16, "evaluate_arm": 1, "answer_arm": 1}


@pytest.mark.parametrize("name", ["one_node", "one_gpu"])
def test_the_profiles_of_one_node_start_no_trainjob(tmp_path: Path, name: str) -> None:
    container, _ = executors_of(tmp_path, read_resources(PROFILE.with_name(f"{name}.yaml")))
    assert NODES not in variables(container["arm"]["container"])
