"""`drift watch | logs | cancel | retry RUN`, with a run of a real control plane or one that goes as a test says."""

import json
from pathlib import Path

import pytest

from drift.cli.app import main
from drift.config.file import load
from drift.config.plan import plan
from drift.ground.errors import ConfigError, ServiceError
from drift.tracking.runs.tracker import Tracker
from pipelines.cluster.graph import fnv
from pipelines.cluster.runs import cancel, find, logs, retry
from pipelines.cluster.server import Target
from tests.kfp_nodes import BODY, WORKFLOW
from tests.kfp_recordings import polls
from tests.kfp_server import KubeflowServer
from tests.mlflow_store import fresh_store

ROOT = Path(__file__).parents[2]
REFUSED = polls("refused")[0]["run_id"]


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "KFP_EXISTING_TOKEN", "KF_PIPELINES_ENDPOINT", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.chdir(ROOT)


def drift(*arguments: str) -> int:
    """The exit code of the command."""
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def running(server: KubeflowServer, *names: str, state: str = "RUNNING") -> None:
    for number, name in enumerate(names, start=1):
        server.runs[f"r{number}"] = {"run_id": f"r{number}", "display_name": name}
        server.change(f"r{number}", state)


def test_a_run_is_found_by_its_id_its_name_and_its_page() -> None:
    with KubeflowServer(recording="refused") as server:
        running(server, "nightly", "nightly")
        target = Target(server.url)
        assert find(target, REFUSED) == REFUSED
        assert find(target, f"{server.url}/#/runs/details/{REFUSED}") == REFUSED
        assert find(target, "refused") == REFUSED
        assert find(target, "nightly") == "r2"  # the newest
        assert find(target, "r1") == "r1"
        with pytest.raises(ConfigError, match=r"no run 'none' on http.*; give its id, its name or its page"):
            find(target, "none")


def test_a_run_is_canceled_and_its_end_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    with KubeflowServer(states=("RUNNING",)) as server:
        running(server, "nightly")
        assert drift("cancel", "nightly", "--host", server.url) == 0
        assert drift("watch", "nightly", "--every", "0", "--host", server.url) == 2
        with pytest.raises(ServiceError, match=r"answers 400: .*Failed to terminate a run r1. Row not found"):
            cancel(Target(server.url), "r1")
    said = capsys.readouterr()
    assert "r1: canceling; `drift watch r1` shows its end" in said.out
    assert "run r1 (nightly): CANCELED" in said.out
    assert f"drift: the run was canceled; see {server.url}/#/runs/details/r1\n" in said.err


def test_a_failed_run_is_started_again_and_a_good_one_is_not() -> None:
    with KubeflowServer() as server:
        running(server, "nightly", state="FAILED")
        retry(Target(server.url), "r1")
        assert server.runs["r1"]["state"] == "RUNNING"
        with pytest.raises(ServiceError, match=r"answers 409: .*Workflow must be Failed/Error to retry"):
            retry(Target(server.url), "r1")
        assert drift("retry", "r1", "--host", server.url) == 2


def test_watching_ends_with_the_verdict_and_whole_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("COLUMNS", "80")
    tracker = Tracker.open(store, experiment="drift", run_id=REFUSED, name="refused")
    reasons = "retention lost 2.0 points on MMBench, more than the 1.0 that gate.max_retention_loss allows; and so on"
    verdict = {"drift.gate": "refused", "drift.gate_reasons": reasons, "drift.winner": "drift"}
    for name, value in verdict.items():
        tracker.client.set_tag(tracker.parent, name, value)
    with KubeflowServer(recording="refused") as server:
        assert drift("watch", REFUSED, "--every", "0", "--host", server.url) == 0  # a refusal is no fault
        said = capsys.readouterr()
        assert f"gate: drift was refused: {reasons}\n" in said.out
        assert "registered model  none: the gate refused\n" in said.out
        assert f"run               {server.url}/#/runs/details/{REFUSED}\n" in said.out
        assert f"MLflow            {store} (run {tracker.parent})\n" in said.out
        server.polls = 0
        assert drift("watch", REFUSED, "--every", "0", "--host", server.url, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["gate"], told["gate_reasons"]) == ("SUCCEEDED", "refused", reasons)
    assert {step["step"] for step in told["steps"]} >= {"ingest", "arm", "gate", "report"}


def test_without_mlflow_the_end_says_where_the_verdict_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with KubeflowServer(recording="refused") as server:
        assert drift("watch", REFUSED, "--every", "0", "--host", server.url) == 0
    said = capsys.readouterr()
    assert "gate: its verdict is not known here (MLflow has it; set MLFLOW_TRACKING_URI)" in said.out
    assert said.err.count("MLFLOW_TRACKING_URI is not set here") == 1


# ------------------------------------------------------------------------------------------- logs


def pod(place: str) -> str:
    return f"{WORKFLOW}-system-container-impl-{fnv(place)}"


def test_the_log_of_the_step_that_failed_is_shown_and_of_any_other_that_is_named() -> None:
    tasks = {"ingest": ("SUCCEEDED",), "curate": ("FAILED",)}
    with KubeflowServer(tasks=tasks, states=("FAILED",)) as server:
        running(server, "nightly", state="FAILED")
        lines = "\n".join(f"line {number}" for number in range(100))
        server.logs[pod(f"{BODY}.curate(0).executor(0)")] = f"{lines}\ndrift: curate.keep: none are left\n"
        server.logs[pod(f"{BODY}.ingest(0).executor(0)")] = "600 problems\n"
        target = Target(server.url)
        failed = logs(target, "r1", tail=2)
        assert (failed.step, failed.text) == ("curate", "line 99\ndrift: curate.keep: none are left")
        assert logs(target, "r1", step="ingest").text == "600 problems"
        with pytest.raises(ConfigError, match="STEP: gate has not begun in this run"):
            logs(target, "r1", step="gate")
        with pytest.raises(ConfigError, match="STEP: no step 'ingset'"):
            logs(target, "r1", step="ingset")


def test_the_log_of_a_step_that_a_frozen_list_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow knows that it ran, and its place is that of its neighbours."""
    config = load(ROOT / "configs" / "miniature.yaml")
    frozen = polls("first-run")[-1]
    store = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    tracker = Tracker.open(store, experiment="drift", run_id=frozen["run_id"], name="first")
    told = {"drift.step": "evaluate_arm", "drift.arm": "drift", "mlflow.parentRunId": tracker.parent}
    tracker.client.set_terminated(tracker.client.create_run(tracker.experiment_id, tags=told).info.run_id, "FAILED")
    with KubeflowServer(recording="first-run") as server:
        server.polls = 10**6
        server.runs[frozen["run_id"]]["runtime_config"] = {
            "parameters": {"arms": plan(config, local=False).arguments()["arms"]}
        }
        workflow = next(node["display_name"] for node in frozen["run_details"]["task_details"]
                        if node.get("display_name", "").startswith("drift-sft-")).partition("(")[0]  # fmt: skip
        loop = f"{workflow}(0).root(0).exit-handler-1(0).for-loop-2(0).iteration-iterations(2:2)(0).iteration-item(0)"
        name = f"{workflow}-system-container-impl-{fnv(f'{loop}.evaluate-arm(0).executor(0)')}"
        server.logs[name] = "drift: evaluate.data: /benchmarks is empty\n"
        said = logs(Target(server.url), frozen["run_id"])
    assert (said.step, said.arm, said.text) == ("evaluate_arm", "drift", "drift: evaluate.data: /benchmarks is empty")


def test_the_log_of_the_pod_that_a_step_named_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    tracker = Tracker.open(store, experiment="drift", run_id="r1", name="r1")
    told = {"drift.step": "gate", "mlflow.parentRunId": tracker.parent, "drift.pod": "drift-sft-h7t2k-other-1"}
    tracker.client.create_run(tracker.experiment_id, tags=told)
    with KubeflowServer(tasks={"ingest": ("SUCCEEDED",)}) as server:
        running(server, "nightly")
        server.logs["drift-sft-h7t2k-other-1"] = "3 arms\n"
        said = logs(Target(server.url), "r1")
    assert (said.step, said.source, said.text) == ("gate", "pod drift-sft-h7t2k-other-1, by Kubeflow", "3 arms")


def test_the_log_of_an_arm_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    config = load(ROOT / "configs" / "miniature.yaml")
    tasks = {f"arm/{arm}": ("SUCCEEDED",) for arm in config.arms}
    with KubeflowServer(tasks=tasks) as server:
        running(server, "nightly")
        server.runs["r1"]["runtime_config"] = {"parameters": {"arms": plan(config, local=False).arguments()["arms"]}}
        place = f"{BODY}.for-loop-2.iteration-iterations(2:2).iteration-item.arm(0).executor(0)"
        server.logs[pod(place)] = "loss 0.1\n"
        assert drift("logs", "r1", "arm", "--arm", "drift", "--host", server.url) == 0
        said = capsys.readouterr()
        assert (said.out, said.err.startswith("arm drift: pod ")) == ("loss 0.1\n", True)
        with pytest.raises(
            ServiceError, match=r"arm sft: no log \(Failed to read logs for run r1: pods .* not found\)"
        ):
            logs(Target(server.url), "r1", step="arm", arm="sft")
