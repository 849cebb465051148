"""`drift doctor`: what is needed and missing ends with 2; the rest is a note. Here, in a namespace, and from a pod."""

import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drift.cli.app import main
from drift.config.chain import Config
from drift.config.file import load
from drift.config.section import validate
from drift.ground.findings import Finding
from drift.planning import inside
from drift.tracking.store import open_client
from pipelines import doctor
from pipelines.cluster import look
from tests.end_to_end import chain
from tests.kfp_server import KubeflowServer
from tests.kubernetes_server import BOUND, CLASSES, MLFLOW, RUNTIMES, TRAIN_JOBS, Namespace
from tests.mlflow_server import ADMIN, impatient, mlflow_server, server_with_users
from tests.openai_server import OpenAIServer

EXAMPLE = chain.ROOT / "configs" / "resources" / "one_node.yaml"
CLAIMS = {"drift-models": BOUND, "drift-benchmarks": BOUND}
SECRETS = {"huggingface": {"token": "x"}}
NO_RIGHT = 'pods is forbidden: User "me" cannot create resource "pods" in API group "" in the namespace "kubeflow"'
QUOTA = 'pods "drift-doctor-1" is forbidden: exceeded quota: team, requested: limits.cpu=32, used: 0, limited: 16'
NOTHING_FOUND = json.dumps({"findings": []}, indent=2)
NO_NODE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (MLFLOW, *ADMIN, "KF_PIPELINES_ENDPOINT", "KFP_EXISTING_TOKEN", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.setenv(
        "DOCKER_HOST", "tcp://127.0.0.1:9"
    )  # docker's client leaves a Unix socket open that nobody answers
    monkeypatch.chdir(chain.ROOT)


@pytest.fixture
def kubeflow() -> Iterator[KubeflowServer]:
    with KubeflowServer(token="right") as server:
        yield server


def examined(folder: Path, **options: Any) -> dict[str, Finding]:
    config = load(chain.ROOT / "configs" / "miniature.yaml", [f"runs={folder / 'runs'}"])
    return {finding.check: finding for finding in doctor.examine(config, **options)}


def test_this_machine_has_what_is_needed_and_the_rest_is_noted(tmp_path: Path) -> None:
    found = examined(tmp_path)
    needed = ("Python", "torch", "torchvision", "transformers", "mlflow", "kfp", "disk")
    assert {found[name].state for name in needed} == {"passed"}
    assert {found[name].state for name in ("Docker", "MLflow", "promotion", "MLflow artifacts", "champion")} == {"note"}
    assert "Docker does not answer" in found["Docker"].detail


def test_a_version_outside_the_projects_range_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = importlib.metadata.metadata("drift-mllm").as_string()
    other = own.replace("torch>=2.6", "torch>=99").replace("Requires-Python: <3.14,>=3.11", "Requires-Python: >=4")
    (tmp_path / "drift_mllm-9.dist-info").mkdir()
    (tmp_path / "drift_mllm-9.dist-info" / "METADATA").write_text(other.replace("kfp<2.18,>=2.17", "kfp<3,>=2.18"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = examined(tmp_path)
    problems = {name for name, finding in found.items() if finding.is_problem}
    assert problems == {"Python", "torch", "kfp"}
    assert found["kfp"].detail.endswith("is not <3,>=2.18; pip install 'kfp<3,>=2.18'")


def test_a_kubeflow_that_answers_passes_and_one_that_refuses_the_token_does_not(
    tmp_path: Path, kubeflow: KubeflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.url)
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "right")
    assert examined(tmp_path)["Kubeflow"] == Finding("Kubeflow", "passed", f"{kubeflow.url} 2.17.0")
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "old")
    refused = examined(tmp_path)["Kubeflow"]
    assert refused.is_problem and "KFP_EXISTING_TOKEN" in refused.detail


@pytest.mark.parametrize(
    ("version", "state", "detail"),
    [
        ("2.5.0", "problem", "is Kubeflow Pipelines 2.5.0, not >=2.16; upgrade it"),
        ("unknown", "note", "does not say its release; needed is >=2.16"),
    ],
)
def test_a_server_too_old_for_the_pipeline_is_a_problem(
    version: str, state: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KubeflowServer(version=version) as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        found = examined(tmp_path)["Kubeflow"]
    assert found.state == state and found.detail.endswith(detail)


def test_a_named_mlflow_that_does_not_answer_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(MLFLOW, "http://user:secret@127.0.0.1:9")
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--json"])
    said = capsys.readouterr().out
    found = {finding["check"]: finding for finding in json.loads(said)["findings"]}
    assert (end.value.code, found["MLflow"]["state"], "secret" in said) == (2, "problem", False)
    impatient(monkeypatch)  # once is enough
    with pytest.raises(SystemExit):
        main(["doctor"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("✗")]
    assert [line.split("  ")[0] for line in lines] == ["✗ MLflow", "✗ promotion", "✗ MLflow artifacts", "✗ champion"]
    assert "does not answer" in lines[0]


def test_who_may_not_change_a_registered_model_is_told_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server_with_users(tmp_path) as address:
        monkeypatch.setenv(MLFLOW, address)
        for name, value in ADMIN.items():
            monkeypatch.setenv(name, value)
        found = examined(tmp_path)
        assert found["MLflow"].detail == f"{address} {importlib.metadata.version('mlflow')}"
        assert found["promotion"] == Finding("promotion", "passed", "drift-miniature may be made")
        assert found["MLflow artifacts"].detail.endswith("may be written and read")
        assert found["champion"].detail == "drift-miniature has none yet"
        client = open_client(address)
        client.create_registered_model("drift-miniature")
        assert examined(tmp_path)["promotion"].detail == "drift-miniature may be changed"
        _make_user(address, "reader")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
        found = examined(tmp_path)
        refused, files = found["promotion"], found["MLflow artifacts"]
        assert refused.is_problem and "'Permission denied'); ask for the right; the steps gate and" in refused.detail
        assert files.is_problem and "give the steps the rights and keys" in files.detail
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        (left,) = client.search_registered_models()
        assert (left.name, left.tags) == ("drift-miniature", {})


def _make_user(address: str, name: str) -> None:
    from mlflow.server.auth.client import AuthServiceClient

    AuthServiceClient(address).create_user(name, ADMIN["MLFLOW_TRACKING_PASSWORD"])


def test_what_a_namespace_lacks_is_found_and_what_it_has_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = {
        "drift-models": {"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Bound"}},
        "drift-benchmarks": {"spec": {"accessModes": ["ReadOnlyMany"]}, "status": {"phase": "Lost"}},
    }
    default = {"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}
    classes = [{**one, "provisioner": "x"} for one in (default, {"metadata": {"name": "big"}})]
    with Namespace(
        claims=claims, secrets=SECRETS, config={"OTHER": "x"}, more={CLASSES: {"items": classes}}
    ) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = examined(tmp_path, resources=EXAMPLE)
    assert found["claim drift-models"] == Finding(
        "claim drift-models", "problem", "volumes: claim 'drift-models' is ReadWriteOnce, and steps that run at the "
        "same time mount it on several nodes; make it ReadWriteMany, or keep them on one node: node_selector: "
        "{kubernetes.io/hostname: ...}",
    )  # fmt: skip
    assert (
        found["claim drift-benchmarks"].is_problem and "has lost its volume" in found["claim drift-benchmarks"].detail
    )
    assert found["secret huggingface"].state == "passed"
    assert found["config map drift-mlflow"].detail.startswith(
        "config map 'drift-mlflow' has no key 'MLFLOW_TRACKING_URI'"
    )
    assert found["storage classes"].detail == "big, fast (default)"
    assert (found["TrainJob"].state, "or set nodes: 1" in found["TrainJob"].detail) == ("note", True)


def test_a_pod_says_what_it_finds_where_the_steps_will_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        mlflow_server(tmp_path) as address,
        Namespace(claims=CLAIMS, secrets=SECRETS, config={MLFLOW: address}) as cluster,
    ):
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = examined(tmp_path, resources=EXAMPLE, pods=("train",), service_account="drift")
    assert found["train pod"].state == "passed", found["train pod"]
    assert (found["MLflow"].state, found["train pod: MLflow"].state) == ("note", "passed")
    assert found["train pod: promotion"] == Finding("train pod: promotion", "passed", "drift-miniature may be made")
    assert found["train pod: GPU"].is_problem, "the profile gives eight, and torch sees none"
    (pod,) = cluster.made
    (container,) = pod["spec"]["containers"]
    assert cluster.deleted == [pod["metadata"]["name"]]
    assert container["resources"]["limits"] == {"cpu": "32", "memory": "512Gi", "nvidia.com/gpu": "8"}
    assert container["volumeMounts"][0] == {"name": "drift-models", "mountPath": "/models", "subPath": ""}
    assert "/models cannot be read by user" in found["train pod: folder /models"].detail, (
        "this machine has no such claim"
    )
    assert (pod["spec"]["serviceAccountName"], container["securityContext"]["runAsNonRoot"]) == ("drift", True)
    assert "x" not in [one.get("value") for one in container["env"]]


@pytest.mark.parametrize(
    ("contents", "state", "detail"),
    [
        ({"waiting": "ImagePullBackOff"}, "problem", "correct DRIFT_IMAGE_TRAIN or the profile"),
        ({"refusal": (403, NO_RIGHT)}, "note", f"the cluster answers 403 Forbidden: {NO_RIGHT}"),
        ({"refusal": (403, QUOTA)}, "problem", f"403 Forbidden: {QUOTA}; the steps' pods would be refused too"),
        ({"refusal": (404, "")}, "problem", "has no namespace 'kubeflow'"),
        ({"start": lambda image, command, environment: (1, "no drift here\n")}, "problem", "says 'no drift here'"),
    ],
)
def test_a_pod_that_cannot_look_is_one_finding(
    contents: dict[str, Any], state: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Namespace(secrets=SECRETS, **contents) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = examined(tmp_path, resources=EXAMPLE, pods=("train",))
    assert found["train pod"].state == state and detail in found["train pod"].detail
    assert not [name for name in found if name.startswith("train pod: ")]
    assert len(cluster.deleted) == len(cluster.made)


def test_a_pod_of_an_unknown_role_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--pod", "trane"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "drift: --pod: no role 'trane'; did you mean 'train'?\n"


@pytest.mark.parametrize(
    "event",
    [
        ("Warning", "FailedScheduling", NO_NODE),
        ("Warning", "FailedMount", 'MountVolume.SetUp failed for volume "x" : mount failed: exit status 32'),
        ("Warning", "FailedAttachVolume", 'Multi-Attach error for volume "x" Volume is already used by pod(s) y'),
    ],
    ids=lambda event: event[1],
)
def test_a_pod_that_waits_in_vain_says_why_at_once_in_the_words_of_its_events(
    event: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(look, "STUCK", 1.0)
    begun = time.monotonic()
    with Namespace(secrets=SECRETS, waiting="ContainerCreating", events=[event]) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = examined(tmp_path, resources=EXAMPLE, pods=("train",))["train pod"]
    assert time.monotonic() - begun < 30
    assert found.is_problem and found.detail == (
        f"the pod does not start ({event[1]}: {event[2]}); correct the profile, or make room on the cluster"
    )
    assert [record.message for record in caplog.records if event[1] in record.message] == [
        f"the pod of train waits: {event[1]}: {event[2]}"
    ]


def test_a_node_that_is_on_its_way_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "STUCK", 0.0)
    monkeypatch.setattr(look, "PATIENCE", 4.0)
    events = [("Warning", "FailedScheduling", NO_NODE), ("Normal", "TriggeredScaleUp", "pod triggered scale-up")]
    with Namespace(secrets=SECRETS, waiting="ContainerCreating", events=events) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = examined(tmp_path, resources=EXAMPLE, pods=("train",))["train pod"]
    assert found.detail.startswith("not ended after 4 s (ContainerCreating")


def test_a_restricted_namespace_takes_doctor_s_pod_and_says_in_full_what_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root.yaml").write_text("roles: {train: {run_as_non_root: false}}")
    (tmp_path / "any.yaml").write_text("roles: {train: {}}")
    with Namespace(restricted=True, start=lambda *given: (0, NOTHING_FOUND)) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        taken = examined(tmp_path, resources=tmp_path / "any.yaml", pods=("train",))["train pod"]
        refused = examined(tmp_path, resources=tmp_path / "root.yaml", pods=("train",))["train pod"]
    assert taken.state == "passed"
    assert refused.is_problem
    assert 'violates PodSecurity "restricted:latest": runAsNonRoot != true; the steps\' pods' in refused.detail


def test_a_pod_reads_its_claims_and_writes_where_its_steps_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vlm").touch()
    (tmp_path / "shared").mkdir()
    profile = {
        "shared": {"claim": "drift-shared", "path": str(tmp_path / "shared")},
        "roles": {
            "train": {
                "nodes": 2, "gpus": 1, "volumes": [{"claim": "drift-models", "path": str(tmp_path / "models")}],
                "scratch": {"size": "1Gi", "paths": [str(tmp_path / "none")]},
            }
        },
    }  # fmt: skip
    (tmp_path / "profile.yaml").write_text(json.dumps(profile))
    with Namespace(claims=CLAIMS) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = examined(tmp_path, resources=tmp_path / "profile.yaml", pods=("train",))
    assert found["train pod"].state == "passed", found["train pod"]
    assert found[f"train pod: folder {tmp_path}/models"].detail == "1 entries"
    assert found[f"train pod: writing {tmp_path}/shared"].detail.endswith("GB free")
    assert "cannot be written by user" in found[f"train pod: writing {tmp_path}/none"].detail
    assert not list((tmp_path / "shared").iterdir())
    volumes = {one["name"]: one for one in cluster.made[0]["spec"]["volumes"]}
    assert set(volumes) == {"drift-models", "drift-shared", "drift-scratch"}


def seen_inside(role: str, teacher: str) -> dict[str, Finding]:
    """What a pod of the role finds, with a teacher at that address."""
    raw = yaml.safe_load((chain.ROOT / "configs" / "miniature.yaml").read_text())
    raw["generate"]["teacher"] = {"kind": "endpoint", "base_url": teacher, "model": "m"}
    return {one.check: one for one in inside.examine(validate(Config, raw), role, (), ())}


def test_a_pod_asks_the_servers_that_its_steps_will_ask() -> None:
    nobody = "http://127.0.0.1:9/v1"
    assert seen_inside("evaluate", nobody)["generate.teacher"].detail == (
        f"generate.teacher.base_url: {nobody} does not answer from here (NewConnectionError); start it, or correct the "
        "address"
    )
    assert "generate.teacher" not in seen_inside("train", nobody)
    with OpenAIServer() as server:
        assert seen_inside("evaluate", server.url)["generate.teacher"].state == "passed"


SEVERAL = chain.ROOT / "configs" / "resources" / "several_nodes.yaml"


def test_a_training_on_several_nodes_needs_rights_a_runtime_and_a_claim_that_all_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = {"spec": {"accessModes": ["ReadOnlyMany"]}, "status": {"phase": "Bound"}}
    with Namespace(claims={**CLAIMS, "drift-shared": once}, denied=["patch trainjobs", "get pods/log"]) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = examined(tmp_path, resources=SEVERAL)
    assert cluster.asked_for == {"system:serviceaccount:kubeflow:pipeline-runner"}
    assert found["shared claim drift-shared"].detail.startswith(
        "shared: claim 'drift-shared' is ReadOnlyMany, and every"
    )
    assert found["TrainJob"].is_problem
    assert found["runtime drift-torch"].detail == (
        "runtime: no TrainingRuntime 'drift-torch' in the namespace 'kubeflow'; an administrator applies "
        "configs/kubeflow/ to the namespace (docs/nodes.md)"
    )
    assert found["rights of pipeline-runner"].detail.startswith(
        "the account 'pipeline-runner' may not patch trainjobs, get pods/log; an administrator"
    )


def test_what_several_nodes_need_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crd = {"metadata": {"name": "x"}, "spec": {"group": "g", "names": {"kind": "k", "plural": "p"}, "scope": "s",
                                               "versions": []}}  # fmt: skip
    more = {TRAIN_JOBS: crd, f"{RUNTIMES}/drift-torch": {"metadata": {"name": "drift-torch"}}}
    with Namespace(claims={**CLAIMS, "drift-shared": BOUND}, more=more) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        found = examined(tmp_path, resources=SEVERAL, service_account="drift")
        cluster.denied = ["impersonate"]
        unknown = examined(tmp_path, resources=SEVERAL)["rights of pipeline-runner"]
    for name in ("shared claim drift-shared", "TrainJob", "runtime drift-torch", "rights of drift"):
        assert found[name].state == "passed", found[name]
    assert unknown.state == "note" and "cannot impersonate resource" in unknown.detail


@pytest.mark.parametrize(
    ("nodes", "selector", "state"),
    [(1, {}, "passed"), (2, {}, "problem"), (0, {}, "problem"), (2, {"kubernetes.io/hostname": "node-1"}, "passed")],
)
def test_a_claim_for_one_node_is_enough_where_there_is_one_node(
    nodes: int, selector: dict[str, str], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = [{"claim": "drift-models", "path": "/models"}]
    roles = {role: {"volumes": volumes, "node_selector": selector} for role in ("pipeline", "train", "evaluate")}
    (tmp_path / "profile.yaml").write_text(json.dumps({"roles": roles}))
    once = {"drift-models": {"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Bound"}}}
    with Namespace(claims=once, nodes=nodes) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        assert examined(tmp_path, resources=tmp_path / "profile.yaml")["claim drift-models"].state == state
