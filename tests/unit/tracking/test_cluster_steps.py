"""A step in a pod: it waits for servers that come back, and loses nothing of what it did while MLflow was away."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.ground.errors import ConfigError, DataError, ServiceError, UnavailableError
from drift.tracking.store import OURS, RUN
from tests.cluster_steps import Pods, Report, by_name, statuses
from tests.mlflow_server import impatient, mlflow_server
from tests.mlflow_store import fresh_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drift.ground.patience.FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "2")
    monkeypatch.setattr("drift.tracking.telling.delivery.FIRST_WAIT_SECONDS", 0.01)
    impatient(monkeypatch)


def failing(times: int, error: Exception) -> Callable[[object], Report]:
    """Work that fails so many times."""
    left = iter(range(times))

    def work(_: object) -> Report:
        if next(left, None) is not None:
            raise error
        return Report({"ingest/rows": 3.0})

    return work


def test_a_server_that_comes_back_costs_a_step_only_the_wait(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = fresh_store(tmp_path)
    pods = Pods(tmp_path, monkeypatch, uri)
    with caplog.at_level(logging.WARNING):
        assert pods.step("r1", "ingest", failing(2, UnavailableError("the hub is away"))) is None
    run = by_name(uri)["r1/ingest"]
    assert run.info.status == "FINISHED" and run.data.metrics == {"ingest/rows": 3.0}
    assert run.data.tags.items() >= {"drift.repeats": "2", "drift.repeated": "the hub is away"}.items()
    assert run.data.tags["drift.attempt"] == "1"
    assert caplog.text.count("r1/ingest failed (the hub is away); again in") == 2


def test_a_pod_s_log_packages_and_origin_outlive_it_also_where_it_fails(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = fresh_store(tmp_path)
    pods = Pods(tmp_path, monkeypatch, uri)
    monkeypatch.setenv("DRIFT_IMAGE", "drift@sha256:1")
    monkeypatch.setenv("DRIFT_KFP_UI", "https://kubeflow.example/pipeline/")

    def work(_: object) -> Report:
        os.write(1, b"row 1 of 2\n")
        raise DataError("no rows")

    assert isinstance(pods.step("r1", "ingest", work), DataError)
    runs, client = by_name(uri), MlflowClient(uri)
    step = runs["r1/ingest"]
    log = Path(client.download_artifacts(step.info.run_id, "step/log.txt")).read_text()
    assert log.startswith("row 1 of 2\n") and log.endswith("DataError: no rows\n")
    assert "mlflow==" in Path(client.download_artifacts(step.info.run_id, "packages.txt")).read_text()
    assert step.data.tags.items() >= {"drift.image": "drift@sha256:1", "mlflow.source.name": "ingest"}.items()
    page = runs["r1"].data.tags
    assert page["kfp.pipeline_run_url"] == "https://kubeflow.example/pipeline/#/runs/details/r1"
    assert page["mlflow.note.content"].startswith("**ingest failed:** no rows")


def test_an_error_that_stays_fails_a_step_at_once(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh_store(tmp_path)
    pods = Pods(tmp_path, monkeypatch, uri)
    assert isinstance(pods.step("r1", "ingest", failing(1, DataError("no rows"))), DataError)
    tags = by_name(uri)["r1/ingest"].data.tags
    assert tags["drift.error"] == "no rows" and "drift.repeats" not in tags


def test_without_patience_a_step_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "0")
    pods = Pods(tmp_path, monkeypatch, fresh_store(tmp_path))
    assert isinstance(pods.step("r1", "ingest", failing(1, UnavailableError("away"))), UnavailableError)


def test_what_mlflow_missed_while_it_was_away_is_told_at_the_end(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with mlflow_server(tmp_path) as address:
        pods = Pods(tmp_path, monkeypatch, "http://127.0.0.1:9")

        def work(_: object) -> Report:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)  # it is there again
            return Report({"ingest/rows": 3.0}, {"drift.gate": "passed"})

        assert pods.step("r1", "ingest", work) is None
        assert "MLflow does not take 'started' of r1/ingest" in caplog.text
        known = by_name(address)
        assert statuses(address) == {"r1": "RUNNING", "r1/ingest": "FINISHED"}
        assert known["r1/ingest"].data.params == {"ingest.model": "m"}
        assert known["r1/ingest"].data.metrics == {"ingest/rows": 3.0}
        assert known["r1"].data.tags["drift.gate"] == "passed"


def test_an_mlflow_that_never_comes_does_not_stop_a_step_but_the_exit_handler_says_so(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "0")
    pods = Pods(tmp_path, monkeypatch, "http://127.0.0.1:9")
    assert pods.step("r1", "ingest") is None
    with pytest.raises(ServiceError, match=r"MLFLOW_TRACKING_URI: MLflow at http://127\.0\.0\.1:9 refuses"):
        pods.exit_handler("r1", "COMPLETE")


def test_without_mlflow_a_step_works_and_says_once_that_nobody_hears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pods = Pods(tmp_path, monkeypatch, None)
    assert pods.step("r1", "ingest") is None
    pods.exit_handler("r1", "COMPLETE")
    assert caplog.text.count("no MLflow: MLFLOW_TRACKING_URI is not set") == 2


def test_the_pod_is_named_since_its_log_has_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh_store(tmp_path)
    monkeypatch.setenv("KFP_POD_NAME", "drift-sft-x-system-container-impl-7")
    Pods(tmp_path, monkeypatch, uri).step("r1", "arm", arm="sft")
    assert by_name(uri)["r1/arm/sft"].data.tags["drift.pod"] == "drift-sft-x-system-container-impl-7"


def test_a_patience_that_is_no_number_fails_a_step_before_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "long")
    error = Pods(tmp_path, monkeypatch, fresh_store(tmp_path)).step("r1", "ingest", lambda _: pytest.fail("it works"))
    assert isinstance(error, ConfigError)


def test_what_a_step_registers_belongs_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh_store(tmp_path)
    pods = Pods(tmp_path, monkeypatch, uri)
    seen = []
    pods.step("r1", "register", lambda _: seen.append(os.environ[RUN]) or Report())
    assert seen == [by_name(uri)["r1"].info.run_id]
    assert os.environ["MLFLOW_TRACKING_URI"] == os.environ[OURS] == uri, "everything in the step asks there"
    assert MlflowClient(uri).get_run(seen[0]).data.tags["drift.runner"] == "kubeflow"
