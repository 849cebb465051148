"""`drift doctor`: what is needed and missing ends with 2; the rest is a note. Here, in a namespace, and from a pod."""

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drift.cli.app import main
from drift.config.file import load
from drift.ground.findings import Finding
from drift.tracking.store import open_client
from pipelines import doctor
from tests.end_to_end import chain
from tests.kfp_server import KubeflowServer
from tests.kubernetes_server import BOUND, CLASSES, MLFLOW, Namespace
from tests.mlflow_server import ADMIN, mlflow_server, server_with_users

EXAMPLE = chain.ROOT / "configs" / "resources" / "example.yaml"
CLAIMS = {"drift-models": BOUND, "drift-benchmarks": BOUND}
SECRETS = {"huggingface": {"token": "x"}}
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
    needed = ("Python", "torch", "transformers", "mlflow", "kfp", "disk")
    assert {found[name].state for name in needed} == {"passed"}
    assert {found[name].state for name in ("Docker", "MLflow", "promotion", "MLflow artifacts", "Kubeflow")} == {"note"}
    assert "Docker does not answer" in found["Docker"].detail


def test_a_version_outside_the_projects_range_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = importlib.metadata.metadata("drift-mllm").as_string()
    other = own.replace("torch>=2.6", "torch>=99").replace("Requires-Python: >=3.11", "Requires-Python: >=4")
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
        ("2.5.0", "problem", "is Kubeflow Pipelines 2.5.0, not >=2.14; upgrade it"),
        ("unknown", "note", "does not say its release; needed is >=2.14"),
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
    with pytest.raises(SystemExit):
        main(["doctor"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("✗")]
    assert [line.split("  ")[0] for line in lines] == ["✗ MLflow", "✗ promotion", "✗ MLflow artifacts"]
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
        assert found["MLflow artifacts"].detail.endswith("may be written and read; drift-miniature has no champion yet")
        client = open_client(address)
        client.create_registered_model("drift-miniature")
        assert examined(tmp_path)["promotion"].detail == "drift-miniature may be changed"
        _make_user(address, "reader")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
        found = examined(tmp_path)
        refused, files = found["promotion"], found["MLflow artifacts"]
        assert refused.is_problem and "'Permission denied'); ask for the right" in refused.detail
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
    assert found["claim drift-models"].detail.startswith("Bound, ReadWriteOnce: steps on several nodes wait")
    assert (
        found["claim drift-benchmarks"].is_problem and "has lost its volume" in found["claim drift-benchmarks"].detail
    )
    assert found["secret huggingface"].state == "passed"
    assert found["config map drift-mlflow"].detail.startswith(
        "config map 'drift-mlflow' has no key 'MLFLOW_TRACKING_URI'"
    )
    assert found["storage classes"].detail == "big, fast (default)"
    assert (found["TrainJob"].state, "not needed" in found["TrainJob"].detail) == ("note", True)


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
    assert container["volumeMounts"] == [{"name": "claim-0", "mountPath": "/models", "subPath": ""}]
    assert (pod["spec"]["serviceAccountName"], container["securityContext"]["runAsNonRoot"]) == ("drift", True)
    assert "x" not in [one.get("value") for one in container["env"]]


@pytest.mark.parametrize(
    ("contents", "state", "detail"),
    [
        ({"waiting": "ImagePullBackOff"}, "problem", "correct DRIFT_IMAGE_TRAIN or the profile"),
        ({"refusal": 403}, "note", "the cluster answers 403 Forbidden"),
        ({"refusal": 404}, "problem", "has no namespace 'kubeflow'"),
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
