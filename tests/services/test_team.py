"""A team's server, as docker/compose.yaml has it: a user who is no administrator goes from problems to a champion.

Runs with `make test-services`; needs Debian's `postgresql`.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.end_to_end.chain import DRIFT, IN_ORDER, ROOT, worked, write_config
from tests.team_server import Team, team_server


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team_server(tmp_path_factory.mktemp("team")) as team:
        yield team


def drift(user: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A `drift` command of that user, who has no key of the bucket."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    return subprocess.run(
        [*DRIFT, *arguments], cwd=ROOT, env={**own, "OMP_NUM_THREADS": "1", **user}, capture_output=True, text=True
    )


def findings(ended: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    """What `drift doctor` says about MLflow."""
    about = ("MLflow", "promotion", "MLflow artifacts")
    return [one for one in json.loads(ended.stdout)["findings"] if one["check"] in about]


def statuses(team: Team) -> set[str]:
    """Of all runs that the server has."""
    known = team.ask("GET", "experiments/search?max_results=100").json()["experiments"]
    found = team.ask("POST", "runs/search", experiment_ids=[one["experiment_id"] for one in known]).json()
    return {run["info"]["status"] for run in found.get("runs", ())}


def said(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


@pytest.fixture
def ada(team: Team, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A user without rights of her own, whom MLflow's client in this process is too."""
    user = team.user("ada")
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    return user


def test_a_user_without_admin_rights_goes_from_problems_to_a_champion_and_compares_with_it(
    team: Team, ada: dict[str, str], tmp_path: Path
):
    config = str(write_config(tmp_path, name="team"))
    assert {one["state"] for one in findings(drift(ada, "doctor", "-c", config, "--json"))} == {"passed"}
    first = said(drift(ada, "run", "-c", config, "--json"))
    assert first["registered"]["version"] == 1 and first["registered"]["champion"] and first["not_in_mlflow"] == ""
    all_is_in_mlflow(team, first)

    again = said(drift(ada, "run", "-c", config, "--json"))
    assert ("evaluate_champion", "") in worked(again) and ("generate", "") not in worked(again)
    assert json.loads((Path(again["run"]) / "tasks/gate/gate/gate.json").read_text())["champion_sha256"]
    assert MlflowClient().get_run(again["mlflow_run_id"]).data.tags["drift.tracking"] == "complete"

    freed = said(drift(ada, "clean", "--keep", "1", "--json", "--runs", str(tmp_path / "runs")))
    assert sum(one["freed_bytes"] for one in freed["runs"]) > 0
    cached = said(drift(ada, "run", "-c", config, "--json"))
    assert worked(cached) <= {(step, "") for step in ("inputs", "champion", "report")}, "the cache is whole"


def all_is_in_mlflow(team: Team, result: Mapping[str, Any]) -> None:
    """The page of the run, its steps, the curve of a training with its own times, files in the bucket, the version."""
    client, page = MlflowClient(), result["mlflow_run_id"]
    assert result["mlflow"] == f"{team.address}/#/experiments/1/runs/{page}"
    parent = client.get_run(page)
    assert (parent.info.status, parent.data.tags["drift.tracking"]) == ("FINISHED", "complete")
    assert parent.data.tags["mlflow.note.content"].startswith("**Gate: drift passed.**")
    steps = {run.info.run_name: run for run in client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{page}'")}
    assert set(steps) == {f"{step} {arm}".strip() for step, arm in IN_ORDER}
    assert {run.info.status for run in steps.values()} == {"FINISHED"}
    curve = client.get_metric_history(steps["arm drift"].info.run_id, "train/loss")
    assert len({point.timestamp for point in curve}) > len(curve) / 2 > 5
    for run in (parent, *steps.values()):
        assert run.info.artifact_uri == f"mlflow-artifacts:/1/{run.info.run_id}/artifacts"
        assert team.bucket.keys(f"artifacts/1/{run.info.run_id}/"), run.info.run_name
    files = {key.rpartition("/")[2] for key in team.bucket.keys(f"artifacts/1/{page}/")}
    assert files >= {"config.yaml", "report.html", "gate.md", "summary.json", "registered.json", "run.log"}
    version = client.get_model_version("drift-miniature", "1")
    assert (version.run_id, set(version.aliases)) == (page, {"best", "candidate", "champion"})
    model = client.get_logged_model(version.tags["drift.model_id"])
    assert model.source_run_id == page and model.metrics and model.params
    assert team.bucket.keys(f"artifacts/1/models/{model.model_id}/artifacts/model.safetensors")


def test_who_may_only_read_promotes_nothing_and_pays_no_teacher(team: Team, tmp_path: Path):
    config = write_config(tmp_path, name="reader", register={"model": "drift-reader"})
    team.ask("POST", "registered-models/create", name="drift-reader").raise_for_status()
    reader = team.user("bob")
    doctor = drift(reader, "doctor", "-c", str(config), "--json")
    assert doctor.returncode == 2
    assert {one["check"]: one["state"] for one in findings(doctor)} == {
        "MLflow": "passed",
        "promotion": "problem",
        "MLflow artifacts": "passed",
    }
    refused = drift(reader, "run", "-c", str(config))
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert "drift-reader: MLflow at" in refused.stderr and "ask for the right" in refused.stderr
    assert not list((tmp_path / "runs").glob("*/run.json")) and "RUNNING" not in statuses(team)


def test_with_the_least_rights_a_user_may_run_and_what_only_the_owner_may_delete_stays_once(team: Team, tmp_path: Path):
    config = write_config(tmp_path, name="least", register={"model": "drift-least"})
    experiment = team.ask("POST", "experiments/create", name="least").json()["experiment_id"]
    team.ask("POST", "registered-models/create", name="drift-least").raise_for_status()
    user = team.user("least")
    team.grant("least", "experiment", experiment)
    team.grant("least", "registered_model", "drift-least")
    for _ in range(2):
        found = findings(drift(user, "doctor", "-c", str(config), "--json"))
        assert {one["state"] for one in found} == {"passed"}, found
    assert len(team.bucket.keys(f"artifacts/{experiment}/doctor-")) == 1


def test_all_may_read_those_with_rights_to_the_experiment_write_runs_and_one_user_promotes(team: Team):
    experiment = team.ask("POST", "experiments/create", name="rights").json()["experiment_id"]
    team.ask("POST", "registered-models/create", name="rights").raise_for_status()
    for user in ("steps", "registrar"):
        team.user(user)
        team.grant(user, "experiment", experiment)
    team.grant("registrar", "registered_model", "rights")
    version = {"name": "rights", "source": "s3://mlflow/artifacts/m"}
    promotion = {"name": "rights", "alias": "champion", "version": "1"}

    def status(user: str, method: str, path: str, **body: str) -> int:
        return team.ask(method, path, as_user=user, **body).status_code

    for user in ("steps", "registrar"):
        assert status(user, "POST", "runs/create", experiment_id=experiment) == 200
        assert status(user, "GET", "registered-models/get?name=rights") == 200
    assert status("steps", "POST", "model-versions/create", **version) == 403
    assert status("registrar", "POST", "model-versions/create", **version) == 200
    assert status("steps", "POST", "registered-models/alias", **promotion) == 403
    assert status("registrar", "POST", "registered-models/alias", **promotion) == 200
    team.user("eve")
    assert status("eve", "POST", "runs/create", experiment_id=experiment) == 403
