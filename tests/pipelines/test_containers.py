"""What a step in a container gets of this process: what it needs to reach MLflow, S3 and the hub, and no more."""

import os
from pathlib import Path

import pytest

from drift.tracking import limits
from pipelines.local.containers import passed_variables, settings

GIVEN = {
    "MLFLOW_TRACKING_USERNAME": "step",
    "MLFLOW_TRACKING_PASSWORD": "p",
    "MLFLOW_TRACKING_TOKEN": "t",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "/ca.pem",
    "MLFLOW_S3_ENDPOINT_URL": "https://s3.example",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "600",
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "key",
    "AWS_SESSION_TOKEN": "s",
    "AWS_DEFAULT_REGION": "eu",
    "AWS_CA_BUNDLE": "/ca.pem",
    "HF_TOKEN": "h",
    "https_proxy": "http://proxy",
    "REQUESTS_CA_BUNDLE": "/ca.pem",
}


def test_a_step_gets_what_mlflow_s3_and_the_hub_are_reached_with():
    assert passed_variables(GIVEN, ()) == GIVEN


def test_it_gets_no_other_secret_and_no_run_of_another_s():
    others = dict.fromkeys(
        ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI", "GITHUB_TOKEN", "PATH"), "x"
    )
    assert passed_variables(others, ()) == {}
    assert passed_variables({"TEACHER_KEY": "k"}, ["TEACHER_KEY", "JUDGE_KEY"]) == {"TEACHER_KEY": "k"}


def test_in_a_container_our_limits_are_ours_still_and_the_user_s_the_user_s(monkeypatch: pytest.MonkeyPatch):
    for name in (limits.RETRIES, limits.OURS):
        monkeypatch.setenv(name, "")  # put back at the end
        monkeypatch.delenv(name)
    monkeypatch.setenv(limits.TIMEOUT, "600")
    limits.begin()
    passed = passed_variables(os.environ, ())
    assert passed[limits.RETRIES] == str(limits.QUESTION.retries)
    for name in (limits.TIMEOUT, limits.RETRIES, limits.OURS):
        monkeypatch.setenv(name, passed[name])
    assert limits.own_settings() == {limits.TIMEOUT: "600"}


def test_a_certificate_that_a_variable_names_can_be_read_in_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    certificate = tmp_path / "ca.pem"
    certificate.write_text("of tests")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    mounts = settings("run", [], {}, ())["mounts"]
    assert [mount["ReadOnly"] for mount in mounts if mount["Source"] == str(certificate)] == [True]
