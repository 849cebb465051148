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

from tests.end_to_end.chain import DRIFT, ROOT, write_config
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


def said(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def test_a_user_without_admin_rights_goes_from_problems_to_a_champion(team: Team, tmp_path: Path):
    config, user = write_config(tmp_path, name="team"), team.user("ada")
    first = said(drift(user, "run", "-c", str(config), "--json"))
    assert first["registered"]["version"] == 1 and first["registered"]["champion"]
    again = said(drift(user, "run", "-c", str(config), "--json"))
    assert again["mlflow"].startswith(f"{team.address}/#/experiments/")

    runs = ["--runs", str(tmp_path / "runs")]
    freed = said(drift(user, "clean", "--keep", "1", "--json", *runs))
    assert [one["freed_bytes"] > 0 for one in freed["runs"]] == [False, True], "inputs alone: all else is in use"
    cached = said(drift(user, "run", "-c", str(config), "--json"))
    worked = {step["step"] for step in cached["steps"] if not step["cached"]}
    assert worked <= {"inputs", "champion", "gate", "report", "register"}, "the cleaned run's cache is whole"


def test_who_may_only_read_promotes_nothing_and_pays_no_teacher(team: Team, tmp_path: Path):
    write_config(tmp_path, name="team")
    team.ask("POST", "registered-models/create", name="drift-miniature")
    reader = team.user("bob")
    found = drift(reader, "doctor", "-c", str(tmp_path / "config.yaml"), "--json")
    promotion = [one for one in json.loads(found.stdout)["findings"] if one["check"] == "promotion"]
    assert found.returncode == 2 and promotion[0]["state"] == "problem"


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
