"""Scheduled runs on Kubeflow's default storage: who won the first is found by the second and the third.

An S3 server keeps Kubeflow's artifacts, at the addresses of its default root (`minio://mlpipeline/v2/artifacts`), and
MLflow's; the steps are the real doors, and have no key to Kubeflow's bucket.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.champion import champion, evaluate_champion, start
from components.evaluate import evaluate_arm, evaluate_vlm
from components.gate import gate
from components.register import register
from drift.ground.artifacts import START_MODEL, content_sha256
from tests.kubeflow_pod import Pods
from tests.mlflow_server import mlflow_server
from tests.s3_server import KEYS, s3_server
from tests.world import ASSETS, VLM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

NAME = "drift-vlm"
PROTOCOL = {
    "data": str(ASSETS / "benchmarks"),
    "benchmarks": {"MiniMath2": {"role": "reasoning"}, "MiniRead": {"role": "perception"}},
    "limit": 3,
    "max_new_tokens": 2,
}
GATE = {
    "candidate": "drift",
    "model": NAME,
    "min_reasoning_gain": -101,
    "max_perception_loss": 101,
    "max_reasoning_loss": 101,
    "champion": "not_worse",
    "min_clusters": 1,
    **dict.fromkeys(("max_failed", "max_truncated", "max_unreadable"), 1.0),
}


def parameter(config: dict, **more: object) -> str:
    return json.dumps({"config": config, "code": "", "inputs": {}, **more})


@dataclass(frozen=True)
class Ended:
    """A run: the champion that it found and evaluated, that it started from, and what it registered."""

    champion: int | None
    evaluated: str
    start: str
    registered: dict


@dataclass(frozen=True)
class Cluster:
    """Kubeflow's bucket and pods, and MLflow's address."""

    pods: Pods
    mlflow: str
    folder: Path

    def run(self, name: str, weights: str) -> Ended:
        """A scheduled run whose arm gives a model with these contents: from the step `champion` to `register`."""
        pods, evaluation = self.pods, {"step": parameter(PROTOCOL)}
        found = pods.run(champion, name, {"step": parameter({"model": NAME, "starts": True})}).parameters
        begin = pods.run(start, name, {"step": parameter({}), "champion": found["start"]}).artifacts
        began = pods.fetched(begin["model"]) / START_MODEL
        started = content_sha256(began) if began.is_dir() else ""
        model, record = self._arm(name, weights)
        arm = {**evaluation, "arm": parameter({"name": "drift"})}
        scores = pods.run(evaluate_arm, name, arm, {"model": model}).artifacts["scores"]
        theirs = pods.run(evaluate_champion, name, {**evaluation, "champion": found["champion"]}).artifacts["scores"]
        of_champion = pods.fetched(theirs) / "scores" / "scores.json"
        evaluated = json.loads(of_champion.read_text())["model_sha256"] if of_champion.is_file() else ""
        vlm = {"step": parameter({"evaluate": PROTOCOL, "vlm": str(VLM)})}
        ours = pods.run(evaluate_vlm, name, vlm).artifacts["scores"]
        compared = {"baseline": ours, "champion": theirs, "scores": [scores], "records": [record]}
        decided = pods.run(gate, name, {"step": parameter(GATE)}, compared)
        winner = {"model": decided.parameters["Output"], "gate": decided.artifacts["gate"]}
        told = pods.run(register, name, {"step": parameter({"model": NAME})}, winner).artifacts["registered"]
        registered = json.loads((pods.fetched(told) / "registered.json").read_text())
        version = json.loads(found["start"])["version"] if found["start"] else None
        return Ended(version, evaluated, started, registered)

    def _arm(self, run: str, weights: str) -> tuple[str, str]:
        """The miniature's model with a note in it, and the arm's record, as the step `arm` uploads them."""
        model, record = (self.folder / f"{run}-{what}" for what in ("model", "record"))
        shutil.copytree(VLM, model)
        (model / "note.txt").write_text(weights)
        record.mkdir()
        address = self.pods.put(model, self.pods.address(run, "arm", "model"))
        (record / "arm.json").write_text(json.dumps({"arm": "drift", "model_uri": address}))
        return address, self.pods.put(record, self.pods.address(run, "arm", "record"))


@pytest.fixture(params=["proxied", "direct"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """With an MLflow server that passes files on to its bucket, and with one that hands out the bucket's address: then
    the steps have a key of their own to it, as from a Secret."""
    with s3_server("mlpipeline", "mlflow") as (kubeflows, mlflows):
        keys = {**KEYS, "MLFLOW_S3_ENDPOINT_URL": mlflows.address}
        root = ("--artifacts-destination", "s3://mlflow/files")
        if request.param == "direct":
            root = ("--no-serve-artifacts", "--default-artifact-root", "s3://mlflow/files")
            for name, value in keys.items():
                monkeypatch.setenv(name, value)
        with mlflow_server(tmp_path, *root, environment=keys) as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            monkeypatch.setenv("DRIFT_EXPERIMENT", "drift")
            yield Cluster(Pods(kubeflows, tmp_path / "minio"), address, tmp_path)


def test_the_second_and_the_third_run_find_the_champion_also_after_kubeflows_bucket_was_emptied(cluster: Cluster):
    client = MlflowClient(cluster.mlflow)
    first = cluster.run("run-1", "one")
    assert (first.champion, first.evaluated, first.start) == (None, "", "")
    assert (first.registered["version"], first.registered["champion"]) == (1, True)

    second = cluster.run("run-2", "one")
    fingerprint = first.registered["fingerprint"]
    assert (second.champion, second.evaluated, second.start) == (1, fingerprint, fingerprint)
    assert (second.registered["version"], second.registered["created"]) == (1, False), "the same contents again"

    cluster.pods.bucket.empty()
    third = cluster.run("run-3", "two")
    assert (third.champion, third.evaluated, third.start) == (1, fingerprint, fingerprint)
    assert (third.registered["version"], third.registered["champion"], third.registered["previous"]) == (2, True, 1)

    (parent,) = client.search_runs(
        [client.get_experiment_by_name("drift").experiment_id], "tags.`drift.run_key` = 'run-3'"
    )
    version = client.get_model_version(NAME, "2")
    assert version.run_id == parent.info.run_id
    assert version.tags["drift.source_uri"] == cluster.pods.address("run-3", "arm", "model")
