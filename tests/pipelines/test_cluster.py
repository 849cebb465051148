"""Submitting and scheduling, with Kubeflow's real client against a server on loopback."""

import json
from functools import partial
from pathlib import Path

import pytest
import yaml

from drift.config.chain import Config
from drift.config.file import load
from drift.ground.errors import PipelineError, ServiceError
from pipelines.check import check_spec, dags
from pipelines.cluster.server import Target
from pipelines.cluster.submit import submit
from tests.forked import drift
from tests.kfp_server import KubeflowServer

ROOT = Path(__file__).parents[2]
SECRET = "s3cret-token"


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "KFP_EXISTING_TOKEN", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "configs" / "miniature.yaml")


def test_a_run_is_submitted_and_followed_to_its_end(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_EXISTING_TOKEN", SECRET)
    tasks = {"ingest": ("RUNNING", "SUCCEEDED"), "curate": ("PENDING", "SKIPPED")}
    events = []
    with KubeflowServer(tasks=tasks, token=SECRET) as server:
        target = Target(server.url, experiment="trial", service_account="trainer")
        run = submit(config, target, run_name="first", poll_seconds=0.01, on_event=events.append)
        (sent,) = server.runs.values()
    assert (run.state, run.url) == ("SUCCEEDED", f"{server.url}/#/runs/details/{run.run_id}")
    assert [(event.step, event.state) for event in events] == [
        ("ingest", "started"), ("ingest", "finished"), ("curate", "cached"),
    ]  # fmt: skip
    assert (sent["display_name"], sent["service_account"], sent["experiment_id"]) == ("first", "trainer", "e1")
    assert server.experiments["e1"]["display_name"] == "trial"
    assert SECRET not in json.dumps(sent)


def test_what_is_submitted_is_the_checked_pipeline(config: Config) -> None:
    with KubeflowServer() as server:
        run = submit(config, Target(server.url), wait=False)
        (sent,) = server.runs.values()
    assert run.state == "PENDING" and server.polls == 0
    check_spec(sent["pipeline_spec"]["pipeline_spec"], sent["pipeline_spec"]["platform_spec"])
    assert server.experiments["e1"]["display_name"] == config.name


@pytest.mark.parametrize("caching", [True, False])
def test_a_fresh_run_takes_no_step_from_the_cache(config: Config, caching: bool) -> None:
    with KubeflowServer() as server:
        submit(config, Target(server.url), wait=False, caching=caching)
        (sent,) = server.runs.values()
    tasks = {
        name: task for _, dag in dags(sent["pipeline_spec"]["pipeline_spec"]) for name, task in dag["tasks"].items()
    }
    cached = [bool(tasks[step]["cachingOptions"]) for step in ("arm", "gate")]
    assert cached == [caching, caching]


def test_a_run_that_fails_is_an_error_that_names_the_step_and_the_page(config: Config) -> None:
    tasks = {"ingest": ("SUCCEEDED",), "generate": ("RUNNING", "FAILED")}
    with (
        KubeflowServer(tasks=tasks, states=("RUNNING", "FAILED")) as server,
        pytest.raises(PipelineError, match=r"the run failed: generate; see http.*/#/runs/details/r1"),
    ):
        submit(config, Target(server.url), poll_seconds=0.01).require_good()


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "answers 401.*KFP_EXISTING_TOKEN"), (403, "answers 403.*right"), (500, "answers 500.*ml-pipeline")],
)
def test_a_refusing_server_is_an_error_of_one_line(config: Config, status: int, message: str) -> None:
    with KubeflowServer(status=status) as server, pytest.raises(ServiceError, match=message) as error:
        submit(config, Target(server.url))
    assert "\n" not in str(error.value)


def test_the_servers_own_reason_is_in_the_line_whatever_its_status(config: Config) -> None:
    with (
        KubeflowServer() as server,
        pytest.raises(ServiceError, match=r"answers 500: .*Experiment.Name length cannot exceed 128$"),
    ):
        submit(config, Target(server.url, experiment="x" * 129))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit"], "drift: --host: no Kubeflow Pipelines server given"),
        (["submit", "--host", "http://127.0.0.1:9"], "drift: http://127.0.0.1:9 does not answer"),
        (["schedule", "list", "--host", "http://127.0.0.1:9"], "drift: http://127.0.0.1:9 does not answer"),
        (["watch", "r1"], "drift: --host: no Kubeflow Pipelines server given"),
        (["watch", "r1", "--host", "http://127.0.0.1:9"], "drift: http://127.0.0.1:9 does not answer"),
        (["schedule", "create", "--host", "http://127.0.0.1:9", "--cron", "x"], "drift: --cron: 'x' has no meaning"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(arguments: list[str], message: str) -> None:
    ended = drift(*arguments, KFP_EXISTING_TOKEN="")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith(message)


def test_the_commands_show_what_they_made_and_no_token(tmp_path: Path) -> None:
    mine = partial(drift, KFP_EXISTING_TOKEN=SECRET)
    with KubeflowServer(token=SECRET) as server:
        made = mine("schedule", "create", "--host", server.url, "--cron", "0 3 * * *", "--json")
        assert json.loads(made.stdout)["id"] == "s1", made.stderr
        listed = mine("schedule", "list", "--host", server.url)
        assert "0 0 3 * * *" in listed.stdout
        submitted = mine("submit", "--host", server.url, "--no-wait")
        assert f"{server.url}/#/runs/details/r1\n" in submitted.stdout
        expired = drift("submit", "--host", server.url, KFP_EXISTING_TOKEN="old")
        assert (expired.returncode, "401" in expired.stderr) == (2, True)
    for one in (made, listed, submitted, expired):
        assert SECRET not in one.stdout + one.stderr
    assert SECRET not in yaml.safe_dump([server.runs, server.recurring])
