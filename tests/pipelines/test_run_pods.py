"""The pods of a run as a source of its steps: Kubeflow's label, Argo's note of the place, and Kubernetes' events."""

from pathlib import Path
from typing import Any

import pytest

from drift.config.places import Places
from pipelines.cluster.follow import follow
from pipelines.cluster.pods import Pods, steps_of_pods
from pipelines.cluster.runs import logs
from pipelines.cluster.server import Target
from tests.kfp_nodes import BODY, TIME
from tests.kfp_server import KubeflowServer
from tests.kubernetes_server import ROOT, Namespace

Body = dict[str, Any]
LOOP = f"{BODY}.for-loop-2.iteration-iterations(1:1).iteration-item(0)"
ENDED = {"finishedAt": "2026-11-25T03:01:40Z", "startedAt": TIME}


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "KFP_EXISTING_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def pod(name: str, place: str, phase: str, **state: Any) -> Body:
    container = {"name": "main", "state": state, "image": "", "imageID": "", "ready": False, "restartCount": 0}
    return {
        "metadata": {
            "name": name,
            "labels": {"pipeline/runid": "r1"},
            "annotations": {"workflows.argoproj.io/node-name": place},
        },
        "status": {"phase": phase, "startTime": TIME, "containerStatuses": [container]},
    }


def warning(reason: str, message: str) -> Body:
    return {"metadata": {}, "involvedObject": {}, "type": "Warning", "reason": reason, "message": message}


def cluster(*pods: Body, events: tuple[Body, ...] = ()) -> Namespace:
    return Namespace(more={f"{ROOT}/pods": {"items": list(pods)}, f"{ROOT}/events": {"items": list(events)}})


def test_a_pods_place_tells_its_step_its_arm_and_of_several_attempts_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = pod("p-1", f"{LOOP}.arm(0).executor(0)", "Failed", terminated={"exitCode": 137, "reason": "OOMKilled"})
    again = pod("p-2", f"{LOOP}.arm(0).executor(1)", "Succeeded", terminated={"exitCode": 0, **ENDED})
    again["status"]["startTime"] = "2026-11-25T03:00:40Z"
    driver = pod("p-3", f"{BODY}.gate-driver(0)", "Running", running={})
    other = pod("p-4", f"{BODY}.of-someone-else(0).executor(0)", "Running", running={})
    with cluster(lost, again, driver, other) as namespace:
        monkeypatch.setenv("KUBECONFIG", str(namespace.kubeconfig(tmp_path)))
        pods = Pods.open(None, "r1")
        assert pods
        read = pods.read(Places(("sft", "drift")))
        assert pods.cause(read[0]) == "OOMKilled, exit code 137"
    assert sorted((one.step, one.arm, one.driver) for one in read) == [
        ("arm", "drift", False), ("arm", "drift", False), ("gate", "", True),
    ]  # fmt: skip
    seen = steps_of_pods(read)
    assert {key: (one.state, one.seconds) for key, one in seen.items()} == {("arm", "drift"): ("finished", 60.0)}


def test_why_a_pod_waits_is_said_at_once_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = pod("p-1", f"{BODY}.generate(0).executor(0)", "Pending", waiting={"reason": "ContainerCreating"})
    event = warning("FailedScheduling", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    notes: list[str] = []
    with (
        cluster(waiting, events=(event,)) as namespace,
        KubeflowServer(states=("RUNNING",) * 3 + ("FAILED",)) as server,
    ):
        monkeypatch.setenv("KUBECONFIG", str(namespace.kubeconfig(tmp_path)))
        server.runs["r1"] = {"run_id": "r1"}
        follow(Target(server.url), "r1", on_note=notes.append, poll_seconds=0.0)
    said = "generate waits: FailedScheduling: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    assert notes.count(said) == 1


def test_without_mlflow_a_failed_steps_cause_is_its_pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = pod(
        "p-1", f"{BODY}.generate(0).executor(0)", "Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}
    )
    tasks = {"generate": ("RUNNING", "FAILED")}
    with cluster(failed) as namespace, KubeflowServer(tasks=tasks, states=("RUNNING", "FAILED")) as server:
        monkeypatch.setenv("KUBECONFIG", str(namespace.kubeconfig(tmp_path)))
        server.runs["r1"] = {"run_id": "r1"}
        run = follow(Target(server.url), "r1", poll_seconds=0.0)
    assert run.failure == "generate (OOMKilled, exit code 137)"


def test_a_log_that_kubeflow_no_longer_has_comes_from_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = pod("p-1", f"{BODY}.generate(0).executor(0)", "Failed", terminated={"exitCode": 1})
    with cluster(failed) as namespace, KubeflowServer(states=("FAILED",)) as server:
        monkeypatch.setenv("KUBECONFIG", str(namespace.kubeconfig(tmp_path)))
        namespace.logs["p-1"] = "drift: generate.teacher: no such model\n"
        server.runs["r1"] = {"run_id": "r1"}
        said = logs(Target(server.url), "r1")
    assert (said.step, said.source, said.text) == (
        "generate", "pod p-1, by Kubernetes", "drift: generate.teacher: no such model",
    )  # fmt: skip


def test_a_cluster_that_refuses_ends_the_looking_at_pods_and_not_the_following(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    namespace = cluster()
    monkeypatch.setenv("KUBECONFIG", str(namespace.kubeconfig(tmp_path)))
    with namespace:
        pass  # it was there, and is gone
    with KubeflowServer(states=("RUNNING", "RUNNING", "SUCCEEDED")) as server:
        server.runs["r1"] = {"run_id": "r1"}
        assert follow(Target(server.url), "r1", on_note=notes.append, poll_seconds=0.0).state == "SUCCEEDED"
    assert len([note for note in notes if note.startswith("pods are not looked at: the cluster")]) == 1
