"""A bucket that the server hands out the address of: each command needs boto3 and a right to it, and says so."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.end_to_end.chain import DRIFT, ROOT, write_config
from tests.mlflow_server import mlflow_server
from tests.s3_server import KEYS, Bucket, s3_server
from tests.unit.tracking.test_registry import gate, model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server("mlflow") as (bucket,):
        yield bucket


@pytest.fixture(scope="module")
def server(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """It hands out the address, and has no key itself."""
    root = ("--no-serve-artifacts", "--default-artifact-root", "s3://mlflow/files")
    with mlflow_server(tmp_path_factory.mktemp("direct"), *root) as address:
        yield address


@pytest.fixture
def user(server: str, bucket: Bucket) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": server, "MLFLOW_S3_ENDPOINT_URL": bucket.address, **KEYS}


def without_boto3(folder: Path) -> dict[str, str]:
    """An environment in which Python does not find it."""
    (folder / "boto3.py").write_text("raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')")
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def commands(folder: Path) -> dict[str, list[str]]:
    """What uses the bucket, by name; each as a person types it."""
    config, made = str(write_config(folder)), model(folder / "model")
    decided = gate(folder / "gate", made)
    return {
        "run": ["run", "-c", config],
        "register": ["register", "--model", str(made), "--gate", str(decided), "--name", "by-hand"],
        "doctor": ["doctor", "-c", config, "--json"],
    }


def drift(environment: Mapping[str, str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*DRIFT, *arguments], cwd=ROOT, env=own, capture_output=True, text=True)


def at_work(server: str) -> list[str]:
    """Runs that are RUNNING, and models whose upload is not over."""
    client = MlflowClient(server)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, "attributes.status = 'RUNNING'")
    models = client.search_logged_models(experiments)
    return [*(run.info.run_id for run in runs), *(one.model_id for one in models if str(one.status) == "PENDING")]


def refused(environment: Mapping[str, str], server: str, folder: Path) -> list[str]:
    """What each command says, once it is seen that it is one line, that it ends with 2 and leaves nothing at work."""
    said = []
    for name, arguments in commands(folder).items():
        ended = drift(environment, arguments)
        assert ended.returncode == 2, (name, ended.stdout, ended.stderr)
        assert at_work(server) == [], name
        if name == "doctor":
            findings = {one["check"]: one for one in json.loads(ended.stdout)["findings"]}
            assert findings["promotion"]["state"] == "passed", "the registry itself answers"
            assert findings["MLflow artifacts"]["state"] == "problem"
            said.append(findings["MLflow artifacts"]["detail"])
        else:
            assert ended.stderr.count("\n") == 1, (name, ended.stderr)
            said.append(ended.stderr)
    assert not list((folder / "runs").glob("*/run.json")), "no run has begun"
    return said


def test_without_boto3_it_is_named_with_how_to_get_it_before_anything_begins(
    user: dict[str, str], server: str, tmp_path: Path
):
    for said in refused({**user, **without_boto3(tmp_path)}, server, tmp_path):
        assert "No module named 'boto3'; pip install 'drift-mllm[s3]'" in said


def test_without_a_right_to_the_bucket_its_refusal_is_said_before_anything_begins(
    user: dict[str, str], server: str, bucket: Bucket, tmp_path: Path
):
    with bucket.guarded() as theirs:
        for said in refused({**user, **theirs}, server, tmp_path):
            assert "AccessDenied" in said or "403" in said, said
    assert bucket.keys() == []


def test_with_both_a_model_is_registered_in_the_bucket_and_nothing_else_is_left_there(
    user: dict[str, str], bucket: Bucket, tmp_path: Path
):
    asked = commands(tmp_path)
    found = json.loads(drift(user, asked["doctor"]).stdout)["findings"]
    assert [one["state"] for one in found if one["check"] == "MLflow artifacts"] == ["passed"]
    assert bucket.keys() == []
    assert drift(user, asked["register"]).returncode == 0
    assert "model.safetensors" in [key.rpartition("/")[2] for key in bucket.keys("files/")]
