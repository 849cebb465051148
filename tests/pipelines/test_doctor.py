"""`drift doctor`: what is needed and missing ends with 2; the rest is a note."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from drift.cli import main
from drift.findings import Finding
from pipelines import doctor
from tests.kfp_server import KubeflowServer


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT", "KFP_EXISTING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(
        "DOCKER_HOST", "tcp://127.0.0.1:9"
    )  # docker's client leaves a Unix socket open that nobody answers


@pytest.fixture
def kubeflow() -> Iterator[KubeflowServer]:
    with KubeflowServer(token="right") as server:
        yield server


def examined(runs: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.examine(runs)}


def test_this_machine_has_what_is_needed_and_the_rest_is_noted(tmp_path: Path) -> None:
    found = examined(tmp_path)
    needed = ("Python", "torch", "transformers", "mlflow", "kfp", "disk")
    assert {found[name].state for name in needed} == {"passed"}
    assert {found[name].state for name in ("Docker", "MLflow", "Kubeflow")} == {"note"}
    assert "Docker does not answer" in found["Docker"].detail


def test_a_version_outside_the_projects_range_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "pyproject.toml"
    text = doctor.PROJECT.read_text().replace('"torch>=2.6"', '"torch>=99"').replace("kfp>=2.17,<2.18", "kfp>=2.18,<3")
    project.write_text(text.replace('requires-python = ">=3.11"', 'requires-python = ">=4"'))
    monkeypatch.setattr(doctor, "PROJECT", project)
    found = examined(tmp_path)
    problems = {name for name, finding in found.items() if finding.state == "problem"}
    assert problems == {"Python", "torch", "kfp"}
    assert found["kfp"].detail.endswith("is not <3,>=2.18; pip install -e '.[cluster]'")


def test_a_kubeflow_that_answers_passes_and_one_that_refuses_the_token_does_not(
    tmp_path: Path, kubeflow: KubeflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.url)
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "right")
    assert examined(tmp_path)["Kubeflow"] == Finding("Kubeflow", "passed", kubeflow.url)
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "old")
    refused = examined(tmp_path)["Kubeflow"]
    assert refused.is_problem and "KFP_EXISTING_TOKEN" in refused.detail


def test_a_named_mlflow_that_does_not_answer_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--json"])
    said = capsys.readouterr().out
    found = {finding["check"]: finding for finding in json.loads(said)["findings"]}
    assert (end.value.code, found["MLflow"]["state"], "secret" in said) == (2, "problem", False)
    with pytest.raises(SystemExit):
        main(["doctor"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("✗")]
    assert line.startswith("✗ MLflow") and "does not answer" in line
