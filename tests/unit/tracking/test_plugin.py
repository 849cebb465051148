"""Beside Kubeflow's own plugin for MLflow: off, on, and on with variables in the pods, with a real MLflow server.

What the plugin does is done here by its own calls (Kubeflow Pipelines 2.17.0, backend/src): the root is made with its
tags (apiserver/plugins/mlflow/handler.go:88, run_start.go:184) and closed (:400), tasks get runs under their DAG's
(v2/common/plugins/mlflow/handler.go:69).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.config.gate import RegisterConfig
from drift.ground.errors import DataError
from drift.tracking.models.registration import register
from drift.tracking.plugin import CONFIG, INJECTED, plugin_from_environment, same_address
from drift.tracking.store import KEY
from tests.cluster_steps import Pods, Report, by_name, statuses
from tests.mlflow_server import impatient, mlflow_server
from tests.mlflow_store import fresh_store
from tests.unit.tracking.test_registry import gate, model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as it:
        yield it


class Kubeflow:
    """The plugin's side of a run."""

    def __init__(self, address: str, run_id: str) -> None:
        self.client, self.address = MlflowClient(address), address
        known = self.client.get_experiment_by_name("KFP-Default")
        self.experiment = known.experiment_id if known else self.client.create_experiment("KFP-Default")
        tags = {"kfp.pipeline_run_id": run_id, "kfp.pipeline_run_url": f"/#/runs/details/{run_id}"}
        self.root = self.client.create_run(self.experiment, run_name=f"run {run_id}", tags=tags).info.run_id

    def task(self, name: str) -> str:
        """The run of a task."""
        run = self.client.create_run(self.experiment, run_name=name, tags={"mlflow.parentRunId": self.root})
        return str(run.info.run_id)

    def config(self, **more: object) -> str:
        """As common/plugins/mlflow/config.go:50 is written as JSON, with what a pod of 2.17 was seen to have."""
        said = {"endpoint": self.address, "parentRunId": self.root, "experimentId": self.experiment}
        return json.dumps({**said, "authType": "none", "timeout": "30s", **more})

    def injected(self, task: str) -> dict[str, str]:
        """`injectUserEnvVars` without credentials (v2/common/plugins/mlflow/handler.go:141)."""
        address = {"MLFLOW_TRACKING_URI": self.address, "MLFLOW_EXPERIMENT_ID": self.experiment}
        return {**address, "MLFLOW_RUN_ID": task, CONFIG: self.config(injectUserEnvVars=True)}

    def status(self, run: str = "") -> str:
        return str(self.client.get_run(run or self.root).info.status)


def failing(_: object) -> Report:
    raise DataError("no rows")


def whole_run(pods: Pods, run_id: str) -> None:
    pods.step(run_id, "arm", lambda _: Report({"train/loss": 1.0}), arm="sft")
    pods.step(run_id, "report", lambda _: Report({"sft/reasoning": 40.0}, {"drift.gate": "refused"}))
    pods.exit_handler(run_id, "RUNNING")


def test_off_the_parent_is_ours(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods(tmp_path, monkeypatch, address)
    whole_run(pods, "off")
    mine = {key: status for key, status in statuses(address).items() if key.startswith("off")}
    assert mine == {"off": "FINISHED", "off/arm/sft": "FINISHED", "off/report": "FINISHED"}


@pytest.mark.parametrize("ours", ["the same", "under another name", "none"])
def test_on_our_steps_hang_under_kubeflow_s_root_in_one_tree(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: str
) -> None:
    run_id = f"on-{ours.replace(' ', '-')}"
    kubeflow = Kubeflow(address, run_id)
    names = {"the same": address, "under another name": address.replace("127.0.0.1", "localhost"), "none": None}
    pods = Pods(tmp_path, monkeypatch, names[ours])
    pods.given[CONFIG] = kubeflow.config()
    theirs = kubeflow.task("arm")
    whole_run(pods, run_id)
    known = by_name(address, "KFP-Default")
    assert {key: run.info.status for key, run in known.items() if key.startswith(run_id)} == {
        run_id: "RUNNING",
        f"{run_id}/arm/sft": "FINISHED",
        f"{run_id}/report": "FINISHED",
    }, "whoever made the root closes it"
    root = known[run_id]
    assert root.info.run_id == kubeflow.root and root.info.run_name == f"run {run_id}"
    assert root.data.metrics == {"sft/reasoning": 40.0} and root.data.tags["drift.gate"] == "refused"
    assert known[f"{run_id}/arm/sft"].data.tags["mlflow.parentRunId"] == kubeflow.root
    assert kubeflow.status(theirs) == "RUNNING", "Kubeflow's own run of the task is not ours"
    assert run_id not in statuses(address), "there is no second tree"


@pytest.mark.parametrize("injects", [False, True])
def test_a_version_that_is_registered_beside_the_plugin_belongs_to_kubeflow_s_root(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, injects: bool
) -> None:
    kubeflow = Kubeflow(address, run_id := f"registers-{injects}")
    given = kubeflow.injected(kubeflow.task("register")) if injects else {CONFIG: kubeflow.config()}
    for name, value in {"DRIFT_MLFLOW_TRACKING_URI": address, "MLFLOW_TRACKING_URI": address, **given}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DRIFT_RUN_ID", run_id)
    made = model(tmp_path / "model", weights=run_id)
    register(RegisterConfig(model=run_id), model=str(made), gate=gate(tmp_path / "gate", made))
    assert kubeflow.client.get_model_version(run_id, "1").run_id == kubeflow.root


def test_on_a_step_that_failed_is_not_reopened_or_closed_by_us(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow = Kubeflow(address, "on-failed")
    pods = Pods(tmp_path, monkeypatch, address)
    pods.given[CONFIG] = kubeflow.config()
    pods.step("on-failed", "curate", failing)
    pods.exit_handler("on-failed", "FAILED")
    assert kubeflow.status() == "RUNNING"
    kubeflow.client.set_terminated(kubeflow.root, "FAILED")
    pods.step("on-failed", "curate")
    assert kubeflow.status() == "FAILED", "Kubeflow opens it on a retry (apiserver/plugins/mlflow/handler.go:170)"
    assert statuses(address, "KFP-Default")["on-failed/curate"] == "FINISHED"


def test_injected_the_steps_log_into_kubeflow_s_runs_and_change_no_state(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow = Kubeflow(address, "inj")
    pods = Pods(tmp_path, monkeypatch, "http://127.0.0.1:9")  # what is injected wins
    tasks = {name: kubeflow.task(name) for name in ("arm", "report", "curate", "finalize")}
    before = len(kubeflow.client.search_runs([kubeflow.experiment]))
    ours = dict(pods.given)

    def in_task(name: str) -> None:
        pods.given = {**ours, **kubeflow.injected(tasks[name])}

    in_task("arm")
    pods.step("inj", "arm", lambda _: Report({"train/loss": 1.0}), arm="sft")
    in_task("curate")
    pods.step("inj", "curate", failing)
    in_task("report")
    pods.step("inj", "report", lambda _: Report({"sft/reasoning": 40.0}, {"drift.gate": "refused"}))
    in_task("finalize")
    pods.exit_handler("inj", "FAILED")
    assert len(kubeflow.client.search_runs([kubeflow.experiment])) == before
    assert {kubeflow.status(run) for run in [kubeflow.root, *tasks.values()]} == {"RUNNING"}
    root = kubeflow.client.get_run(kubeflow.root)
    assert root.data.tags.items() >= {KEY: "inj", "drift.gate": "refused", "drift.step": "pipeline"}.items()
    assert root.data.metrics == {"sft/reasoning": 40.0}
    arm, curate = (kubeflow.client.get_run(tasks[name]) for name in ("arm", "curate"))
    assert arm.data.metrics == {"train/loss": 1.0}
    assert arm.data.tags.items() >= {"drift.step": "arm", "drift.arm": "sft", "kfp.pipeline_run_id": "inj"}.items()
    assert arm.data.tags[KEY] == "inj/arm/sft"
    assert curate.data.tags["drift.error"] == "no rows"


def test_a_plugin_with_another_server_makes_two_trees_that_lead_to_each_other(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kubeflow = Kubeflow(address, "two")
    mine = fresh_store(tmp_path)
    pods = Pods(tmp_path, monkeypatch, mine)
    pods.given[CONFIG] = kubeflow.config()
    whole_run(pods, "two")
    parent = by_name(mine)["two"]
    assert parent.info.status == "FINISHED" and kubeflow.status() == "RUNNING"
    there = f"{address}/#/experiments/{kubeflow.experiment}/runs/{kubeflow.root}"
    assert parent.data.tags["kfp.mlflow_run"] == there
    back = kubeflow.client.get_run(kubeflow.root).data.tags["drift.mlflow_run"]
    assert back.endswith(f"/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}")
    assert f"not where Kubeflow's own plugin logs, {address}" in caplog.text


def test_a_plugin_whose_server_is_out_of_reach_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    impatient(monkeypatch)
    mine = fresh_store(tmp_path)
    pods = Pods(tmp_path, monkeypatch, mine)
    said = {"endpoint": "http://127.0.0.1:9", "parentRunId": "ab" * 16, "experimentId": "7", "authType": "none"}
    pods.given[CONFIG] = json.dumps(said)
    whole_run(pods, "alone")
    parent = by_name(mine)["alone"]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["kfp.mlflow_run"] == f"http://127.0.0.1:9/#/experiments/7/runs/{'ab' * 16}"
    assert "cannot be given a link to ours" in caplog.text


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"endpoint": "http://x"}'])
def test_a_plugin_that_says_something_else_is_none(
    text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(CONFIG, text)
    assert plugin_from_environment() is None
    assert ("not as Kubeflow Pipelines 2.17 writes it" in caplog.text) is bool(text)


@pytest.mark.parametrize(
    ("more", "settings"),
    [
        ({"authType": "none"}, {}),
        ({"authType": "bearer"}, {}),  # the token is in the pod
        ({"authType": "kubernetes"}, {"MLFLOW_TRACKING_AUTH": "kubernetes"}),
        (
            {"authType": "kubernetes", "workspace": "team", "workspacesEnabled": True, "insecureSkipVerify": True},
            {
                "MLFLOW_TRACKING_AUTH": "kubernetes-namespaced",
                "MLFLOW_WORKSPACE": "team",
                "MLFLOW_TRACKING_INSECURE_TLS": "true",
            },
        ),
    ],
)
def test_how_the_plugin_s_server_is_asked(
    more: dict[str, object], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"endpoint": "http://mlflow:5000", "parentRunId": "r", "experimentId": "1", "timeout": "30s"}
    monkeypatch.setenv(CONFIG, json.dumps(said | more))
    plugin = plugin_from_environment()
    assert plugin is not None and plugin.settings == settings
    assert set(settings) - {"MLFLOW_TRACKING_INSECURE_TLS"} <= set(INJECTED)


def test_addresses_are_compared_without_password_case_and_last_slash() -> None:
    assert same_address("https://u:p@MLflow.example/", "https://mlflow.example")
    assert not same_address("https://mlflow.example/a", "https://mlflow.example")
