"""What a run says of the version that it gave, where `register` came from the cache: whose the alias is now."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from drift.tracking.models.by_hand import roll_back
from drift.tracking.models.registration import register
from pipelines.local.run import registered
from pipelines.local.runner import Done
from tests.mlflow_server import impatient
from tests.unit.tracking.test_promoting import NAME, Chain, chain
from tests.unit.tracking.test_registry import CONFIG, client, gate

__all__ = ["chain", "client"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def out(chain: Chain, tmp_path: Path) -> Path:
    """What the step wrote when version 2 was champion."""
    decision = gate(tmp_path / "gate", chain.model("two"), against=chain.model("one"))
    register(CONFIG, model=str(chain.model("two")), gate=decision, out=tmp_path / "registered")
    return tmp_path / "registered"


def done(out: Path, *, cached: bool = True) -> Done:
    return Done({"step": "register", "arm": ""}, {"registered": SimpleNamespace(uri=str(out))}, cached)


def test_a_step_that_worked_is_believed(out: Path, client: MlflowClient):
    assert registered(done(out, cached=False), client.tracking_uri) == json.loads((out / "registered.json").read_text())


def test_of_a_cached_one_mlflow_is_asked(out: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    said = registered(done(out), client.tracking_uri)
    assert (said["champion"], said["alias"]) == (True, "Version 2 is champion.")
    roll_back(NAME, reason="bad")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # of a run in the embedded store only its steps have it
    said = registered(done(out), client.tracking_uri)
    assert (said["version"], said["champion"], "previous" in said) == (2, False, False)
    assert said["alias"].startswith("Version 2 was rolled back by ")
    assert said["alias"].endswith("(bad): version 1 is champion now.")
    client.delete_model_version(NAME, "2")
    said = registered(done(out), client.tracking_uri)
    assert said["alias"] == "Version 2 is not in the registry any more: version 1 is champion now."


def test_where_mlflow_does_not_answer_nothing_is_said_of_the_alias(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    impatient(monkeypatch)
    said = registered(done(out), "http://127.0.0.1:9")
    assert sorted(said) == ["fingerprint", "model", "uri", "version"]
    assert "it is not known who is champion now" in caplog.text
