"""How a run ends in MLflow: by what its steps say, whatever Kubeflow's exit handler was told, if it ran at all."""

import itertools
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.ground.errors import DataError
from drift.tracking.cluster import ALIVE, CLOSED_BY, GONE_SECONDS
from drift.tracking.runs.ending import run_status
from drift.tracking.runs.tracker import REOPENED
from tests.cluster_steps import Pods, Report, by_name, statuses, terminated
from tests.mlflow_store import fresh_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

STATES = ["COMPLETE", "SUCCEEDED", "CACHED", "RUNNING", "FAILED", "CANCELED", "CANCELLED", "UNKNOWN", "NEW", ""]
"""What the backend, its predecessors and the SDK's local runner call a run's end; MLMD's enumeration among it."""
STEP_STATUSES = ["absent", "RUNNING", "FINISHED", "FAILED", "KILLED"]


def expected(state: str, arm: str, report: str, register: str) -> str:
    """As the rules are told, by hand."""
    if "FAILED" in (arm, report, register):
        return "FAILED"
    if report == "FINISHED" and register in ("absent", "FINISHED"):
        return "FINISHED"
    if state in ("COMPLETE", "SUCCEEDED", "CACHED"):
        return "FINISHED"
    return "FAILED" if state == "FAILED" else "KILLED"


@pytest.mark.parametrize("state", STATES)
def test_a_run_is_judged_by_its_steps_and_by_kubeflow_only_where_they_do_not_say(state: str) -> None:
    for arm, report, register in itertools.product(STEP_STATUSES, repeat=3):
        steps = {"arm": arm, "report": report, "register": register}
        told = [(step, status) for step, status in steps.items() if status != "absent"]
        assert run_status(state, told) == expected(state, arm, report, register), steps


@pytest.mark.parametrize(
    ("state", "steps", "status"),
    [
        ("RUNNING", [("gate", "FINISHED"), ("report", "FINISHED")], "FINISHED"),  # the gate refused, or all was cached
        ("COMPLETE", [("report", "FINISHED"), ("register", "FINISHED")], "FINISHED"),
        ("RUNNING", [("arm", "KILLED")], "KILLED"),  # terminated
        ("FAILED", [("arm", "FAILED"), ("evaluate_arm", "KILLED")], "FAILED"),
        ("RUNNING", [("report", "FINISHED"), ("register", "RUNNING")], "KILLED"),  # terminated while it registered
        ("RUNNING", [("arm", "RUNNING"), ("report", "FINISHED")], "FINISHED"),  # report read what the arm made
        ("COMPLETE", [("of_others", "FINISHED")], "FINISHED"),
        ("FAILED", [], "FAILED"),  # its image could not be pulled, say
        ("RUNNING", [], "KILLED"),
    ],
)
def test_the_ends_that_were_seen(state: str, steps: list[tuple[str, str]], status: str) -> None:
    assert run_status(state, steps) == status


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return fresh_store(tmp_path)


@pytest.fixture
def pods(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pods:
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "0")
    return Pods(tmp_path, monkeypatch, uri)


def failing(_: object) -> Report:
    raise DataError("pool.parquet: no rows")


@pytest.mark.parametrize("state", ["COMPLETE", "RUNNING"])
def test_a_success_is_finished_also_when_kubeflow_says_running(pods: Pods, uri: str, state: str) -> None:
    for step in ("ingest", "gate", "report", "register"):
        assert pods.step("r1", step) is None
    pods.exit_handler("r1", state)
    assert set(statuses(uri).values()) == {"FINISHED"}


def test_a_refused_gate_is_a_finished_run_with_the_verdict_on_its_page(pods: Pods, uri: str) -> None:
    refused = {"drift.gate": "refused", "drift.gate_reasons": "reasoning fell by 2 points"}
    pods.step("r1", "gate", lambda _: Report({"gate/passed": 0.0}, refused))
    pods.step("r1", "report", lambda _: Report({"drift/reasoning": 41.5}))
    pods.exit_handler("r1", "RUNNING")
    parent = by_name(uri)["r1"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"gate/passed": 0.0, "drift/reasoning": 41.5}
    assert parent.data.tags.items() >= refused.items()


def test_the_page_of_a_run_that_came_from_the_cache_is_complete_by_its_report(pods: Pods, uri: str) -> None:
    verdict = {"drift.gate": "passed", "drift.winner": "drift"}
    pods.step("r2", "report", lambda _: Report({"drift/reasoning": 41.5, "sft/reasoning": 40.0}, verdict))
    pods.exit_handler("r2", "RUNNING")
    parent = by_name(uri)["r2"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"drift/reasoning": 41.5, "sft/reasoning": 40.0}
    assert parent.data.tags.items() >= {**verdict, "kfp.pipeline_run_id": "r2"}.items()


def test_a_failed_step_fails_the_run(pods: Pods, uri: str) -> None:
    pods.step("r1", "ingest")
    assert isinstance(pods.step("r1", "curate", failing), DataError)
    pods.exit_handler("r1", "FAILED")
    assert statuses(uri) == {"r1": "FAILED", "r1/ingest": "FINISHED", "r1/curate": "FAILED"}
    assert by_name(uri)["r1/curate"].data.tags["drift.error"] == "pool.parquet: no rows"


def test_a_terminated_run_is_killed_and_its_steps_too(pods: Pods, uri: str) -> None:
    pods.step("r1", "ingest")
    assert isinstance(pods.step("r1", "arm", terminated, arm="sft"), SystemExit)
    pods.exit_handler("r1", "RUNNING")
    assert statuses(uri) == {"r1": "KILLED", "r1/ingest": "FINISHED", "r1/arm/sft": "KILLED"}
    assert "drift.error" not in by_name(uri)["r1/arm/sft"].data.tags, "to be stopped is no cause"


def test_an_exit_handler_that_is_quicker_than_the_steps_closes_them(pods: Pods, uri: str) -> None:
    def work(_: object) -> Report:
        pods.exit_handler("r1", "RUNNING")
        assert statuses(uri) == {"r1": "KILLED", "r1/arm/sft": "KILLED"}
        return terminated(_)

    pods.step("r1", "arm", work, arm="sft")
    assert statuses(uri) == {"r1": "KILLED", "r1/arm/sft": "KILLED"}


def test_a_retried_run_is_closed_by_its_last_step_since_no_exit_handler_runs_again(pods: Pods, uri: str) -> None:
    pods.step("r1", "arm", arm="sft")
    pods.step("r1", "arm", failing, arm="drift")
    pods.exit_handler("r1", "FAILED")
    assert statuses(uri)["r1"] == "FAILED"

    def opened(_: object) -> Report:
        assert statuses(uri)["r1"] == statuses(uri)["r1/arm/drift"] == "RUNNING"
        return Report()

    pods.step("r1", "arm", opened, arm="drift")
    assert statuses(uri)["r1"] == "RUNNING", "it is not known yet how it ends"
    pods.step("r1", "report")
    assert statuses(uri)["r1"] == "FINISHED"
    pods.step("r1", "register")
    parent = by_name(uri)["r1"]
    assert parent.info.status == "FINISHED" and float(parent.data.tags[REOPENED]) > 0
    assert set(statuses(uri).values()) == {"FINISHED"}


def test_a_retry_that_fails_again_ends_failed_with_the_new_cause(pods: Pods, uri: str) -> None:
    pods.step("r1", "curate", failing)
    pods.exit_handler("r1", "FAILED")

    def otherwise(_: object) -> Report:
        raise DataError("replay.parquet: no rows")

    pods.step("r1", "curate", otherwise)
    assert statuses(uri) == {"r1": "FAILED", "r1/curate": "FAILED"}
    causes = {name: text for name, text in by_name(uri)["r1/curate"].data.tags.items() if "error" in name}
    assert causes == {"drift.error": "replay.parquet: no rows"}


def test_a_retry_that_is_terminated_is_killed_and_waits_while_another_step_is_at_work(pods: Pods, uri: str) -> None:
    pods.step("r1", "arm", failing, arm="sft")
    pods.exit_handler("r1", "FAILED")

    def work(_: object) -> Report:
        pods.step("r1", "arm", terminated, arm="drift")
        assert statuses(uri)["r1"] == "RUNNING"
        return terminated(_)

    pods.step("r1", "arm", work, arm="sft")
    assert set(statuses(uri).values()) == {"KILLED"}


def test_two_processes_of_one_step_end_the_same_in_either_order(pods: Pods, uri: str) -> None:
    """The older one is a pod that a node lost sight of; its twin was started in its place."""

    def with_twin(twin, own):
        def work(_: object) -> Report:
            pods.step(run_id, "curate", twin)
            return own(_)

        return work

    def ok(_: object) -> Report:
        return Report()

    seen = {}
    for name, older, newer in [
        ("both finish", ok, ok),
        ("the older fails", failing, ok),
        ("the newer fails", ok, failing),
        ("both fail", failing, failing),
        ("the older is killed", terminated, ok),
        ("the older is killed late", terminated, failing),
    ]:
        run_id = name.replace(" ", "-")
        pods.step(run_id, "curate", with_twin(newer, older))
        seen[name] = by_name(uri)[f"{run_id}/curate"]
    assert {name: run.info.status for name, run in seen.items()} == {
        "both finish": "FINISHED",
        "the older fails": "FINISHED",
        "the newer fails": "FINISHED",
        "both fail": "FAILED",
        "the older is killed": "FINISHED",
        "the older is killed late": "FAILED",
    }
    failed = {name for name, run in seen.items() if "drift.error" in run.data.tags}
    assert failed == {"both fail", "the older is killed late"}
    assert {run.data.tags["drift.attempt"] for run in seen.values()} == {"2"}


def test_a_run_whose_workflow_is_gone_is_closed_by_the_next_one(
    pods: Pods, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its schedule was deleted: nobody runs its exit handler."""
    client = MlflowClient(uri)
    for run_id in ("gone", "done", "at-work", "fresh"):
        pods.step(run_id, "report" if run_id == "done" else "ingest")
    known = by_name(uri)
    local = client.create_run(known["gone"].info.experiment_id, run_name="here", tags={"drift.step": "pipeline"})
    clock = time.time() + 2 * GONE_SECONDS
    client.set_tag(known["at-work/ingest"].info.run_id, ALIVE, str(int(clock - 90)))
    client.set_tag(known["fresh"].info.run_id, REOPENED, str(clock - 90))
    monkeypatch.setattr("drift.tracking.cluster.time.time", lambda: clock)
    pods.step("next", "ingest")
    assert {key: status for key, status in statuses(uri).items() if "/" not in key} == {
        "gone": "KILLED",
        "done": "FINISHED",
        "at-work": "RUNNING",
        "fresh": "RUNNING",
        "next": "RUNNING",
        "here": "RUNNING",
    }
    assert client.get_run(local.info.run_id).info.status == "RUNNING", "a run of this machine gives no signs of life"
    assert by_name(uri)["gone"].data.tags[CLOSED_BY] == "next"
    pods.step("gone", "curate", lambda _: Report())
    assert statuses(uri)["gone"] == "RUNNING", "it was only waiting, and opens itself again"


def test_a_step_at_work_gives_signs_of_life(pods: Pods, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drift.tracking.cluster.ALIVE_SECONDS", 0.05)

    def work(_: object) -> Report:
        deadline = time.monotonic() + 20
        while ALIVE not in by_name(uri)["r1/arm/sft"].data.tags:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return Report()

    assert pods.step("r1", "arm", work, arm="sft") is None
    assert abs(int(by_name(uri)["r1/arm/sft"].data.tags[ALIVE]) - time.time()) < 60
