"""The pods that Kubeflow makes of our steps: a restricted namespace takes them, and no variable is given twice."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from drift.config.chain import Config
from drift.config.section import validate
from pipelines.cluster.compile import check_file, compile_pipeline
from pipelines.cluster.needs import ONE_AFTER_ANOTHER, together
from pipelines.cluster.pod import pod_of
from pipelines.placement import NOTHING, Resources, read_resources
from tests.kfp_pods import executor_pods
from tests.pipelines.test_compile import CONFIG
from tests.pod_security import refusals

PROFILES = sorted((Path(__file__).parents[2] / "configs" / "resources").glob("*.yaml"))
Body = dict[str, Any]
Compiled = Callable[[Resources], Path]
INJECTED: Body = {
    "MLFLOW_RUN_ID": {"value": "r"},
    "MLFLOW_TRACKING_URI": {"value": "http://mlflow:5000"},
    "MLFLOW_EXPERIMENT_ID": {"value": "1"},
    "MLFLOW_WORKSPACE": {"value": "w"},
    "MLFLOW_TRACKING_AUTH": {"value": "kubernetes"},
    "MLFLOW_TRACKING_TOKEN": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    "MLFLOW_TRACKING_USERNAME": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    "MLFLOW_TRACKING_PASSWORD": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
}
"""All that Kubeflow 2.17.0's MLflow plugin gives a user's container (backend/src/v2/common/plugins/mlflow/handler.go:
141-168, backend/src/common/plugins/mlflow/config.go:37-40)."""


@pytest.fixture
def compiled(tmp_path: Path) -> Compiled:
    """Compile the golden configuration with a profile."""

    def compile_(resources: Resources) -> Path:
        path = tmp_path / "p.yaml"
        compile_pipeline(validate(Config, CONFIG), path, resources)
        check_file(path)
        return path

    return compile_


@pytest.fixture(params=PROFILES, ids=lambda path: path.stem)
def profile(request: pytest.FixtureRequest) -> Resources:
    return read_resources(request.param)


def test_the_shipped_profiles_are_these() -> None:
    assert [path.stem for path in PROFILES] == ["one_gpu", "one_node", "several_nodes", "shared_kueue"]


def test_a_restricted_namespace_takes_every_step(profile: Resources, compiled: Compiled) -> None:
    pods = executor_pods(compiled(profile))
    assert len(pods) == 15
    assert {step: refusals(pod) for step, pod in pods.items() if refusals(pod)} == {}


def test_without_a_profile_too_and_without_our_setting_for_one_reason_alone(compiled: Compiled) -> None:
    assert not [step for step, pod in executor_pods(compiled(NOTHING)).items() if refusals(pod)]
    root = validate(Resources, {"roles": {role: {"run_as_non_root": False} for role in ("pipeline", "train")}})
    refused = {step: refusals(pod) for step, pod in executor_pods(compiled(root)).items()}
    assert refused["arm"] == refused["gate"] == {"runAsNonRoot != true"}
    assert refused["evaluate-arm"] == set()


def test_a_restricted_namespace_takes_the_pods_of_doctor(profile: Resources) -> None:
    for role in ("pipeline", "train", "evaluate"):
        assert refusals(pod_of(role, validate(Config, CONFIG), profile, None)["spec"]) == set()


def test_a_doctor_s_pod_of_training_is_that_of_its_one_step() -> None:
    profile = validate(
        Resources, {"shared": {"claim": "s", "path": "/shared"}, "steps": {"arm": {"nodes": 2, "gpus": 4}}}
    )
    (container,) = pod_of("train", validate(Config, CONFIG), profile, None)["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert container["command"][-2:] == ["--writable", "/shared"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "restricted volume types: x uses hostPath"),
        ({"hostNetwork": True}, "host namespaces"),
        ({"securityContext": {}}, "seccompProfile"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile"),
    ],
)
def test_the_rules_see_what_breaks_them(change: Body, reason: str) -> None:
    container = {"name": "main", "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True,
                                                     "capabilities": {"drop": ["ALL"]}}}  # fmt: skip
    fine = {"containers": [container], "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
    assert refusals(fine) == set()
    assert refusals(fine | change) == {reason}
    assert refusals(fine | {"initContainers": [{"name": "more"}]}) == {
        "allowPrivilegeEscalation != false", "unrestricted capabilities", "runAsNonRoot != true",
    }  # fmt: skip


def test_with_all_that_the_mlflow_plugin_injects_no_variable_is_given_twice(
    profile: Resources, compiled: Compiled
) -> None:
    for step, pod in executor_pods(compiled(profile), INJECTED).items():
        names = [variable["name"] for variable in pod["containers"][1]["env"]]
        assert len(names) == len(set(names)), step
        assert {"DRIFT_RUN_ID", "DRIFT_MLFLOW_TRACKING_URI", "DRIFT_EXPERIMENT", *INJECTED} < set(names)


def test_a_step_that_is_started_again_has_the_time_of_all_its_attempts(profile: Resources, compiled: Compiled) -> None:
    path = compiled(profile)
    pipeline, platform = yaml.safe_load_all(path.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    dags = [one["dag"] for one in (pipeline["root"], *pipeline["components"].values()) if "dag" in one]
    for name, task in [pair for dag in dags for pair in dag["tasks"].items()]:
        label = pipeline["components"][task["componentRef"]["name"]].get("executorLabel")
        if label and (policy := task.get("retryPolicy")):
            timeout = int(executors[label].get("activeDeadlineSeconds", 0))
            several = name == "arm" and profile.of("arm").nodes > 1  # then it is the TrainJob that has the deadline
            assert timeout or several, f"{name}: a profile that repeats a step says how long it may take"
            attempts, wait = policy["maxRetryCount"] + 1, _seconds(policy["backoffDuration"])
            assert policy["backoffFactor"] == 1, "else the waits double"
            assert _seconds(policy["backoffMaxDuration"]) >= attempts * (timeout + wait), name


def _seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_without_a_timeout_the_time_to_start_again_is_months() -> None:
    from pipelines.placement import window

    assert window(validate(Resources, {"roles": {"train": {"retries": 2}}}).of("arm")) > 90 * 86400


def test_a_volume_made_for_the_pod_takes_the_place_of_the_node_s_disk(compiled: Compiled) -> None:
    scratch = {"roles": {"train": {"scratch": {"size": "500Gi", "storage_class": "fast"}}}}
    pod = executor_pods(compiled(validate(Resources, scratch)))["arm"]
    places = {mount["mountPath"]: mount["name"] for mount in pod["containers"][1]["volumeMounts"]}
    assert {places[path] for path in ("/gcs", "/minio", "/s3")} == {"drift-scratch"}
    assert places["/.cache"] == "dot-cache-scratch"


def test_steps_that_are_said_to_run_one_after_another_wait_for_each_other(compiled: Compiled) -> None:
    pipeline = next(yaml.safe_load_all(compiled(NOTHING).read_text()))
    tasks = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    graphs = {name: pipeline["components"][task["componentRef"]["name"]].get("dag", {}) for name, task in tasks.items()}
    inner = {step: name for name, graph in graphs.items() for step in graph.get("tasks", {})}

    def before(step: str) -> set[str]:
        name = step.replace("_", "-")
        waited = tasks[inner.get(name, name)].get("dependentTasks", [])
        return {one for task in waited for one in {task.replace("-", "_"), *before(task)}}

    for chain in ONE_AFTER_ANOTHER:
        for first, second in itertools.combinations(chain, 2):
            assert first in before(second) or second in before(first), (first, second)
    assert together({"arm"}) and together({"ingest", "deltas"}) and not together({"gate", "report"})
