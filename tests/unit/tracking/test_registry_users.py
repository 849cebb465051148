"""The registry of a server with users, and one that is not where the runs are."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.server import get_app_client

from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256
from drift.ground.errors import DriftError, ServiceError
from drift.tracking.models.by_hand import promote_by_hand, roll_back
from drift.tracking.models.ledger import Look, RegistryLedger, take_look
from drift.tracking.models.registration import register
from drift.tracking.models.registry import fetch, find_champion, find_champions
from drift.tracking.models.versions import details_of, versions_of
from drift.tracking.runs.tracker import Tracker
from tests.mlflow_server import ADMIN, mlflow_server, server_with_users
from tests.unit.tracking.test_registry import CONFIG, gate, model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAME = CONFIG.model
PASSWORD = "a-password-of-one"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the servers below, one after the other."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module", params=["READ", "NO_PERMISSIONS"])
def users(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """With `trainer` and `other`, no admins; what nobody gave them they may read, or not even that."""
    own = folder / request.param
    own.mkdir()
    with server_with_users(own, everyone=request.param) as address:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ADMIN.items():
                patch.setenv(name, value)
            admin = get_app_client("basic-auth", tracking_uri=address)
            for user in ("trainer", "other"):
                admin.create_user(user, PASSWORD)
        yield address


@pytest.fixture
def server(users: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", users)
    return users


def become(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def test_the_first_run_of_a_user_finds_no_champion_and_ends_registered_and_a_stranger_uploads_nothing(
    server: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    become(monkeypatch, "trainer")
    assert find_champions(NAME) is None
    look = Look("a" * 64, "d" * 64, "drift", "", 0.99)
    assert take_look(RegistryLedger(NAME), look) == 1
    first, second = (model(tmp_path / name, weights=name) for name in ("first", "second"))
    report = register(CONFIG, model=str(first), gate=gate(tmp_path / "gate", first))
    assert (report.version, report.champion) == (1, True)
    assert MlflowClient(server).get_model_version(NAME, "1").tags["drift.arm"] == "drift"

    become(monkeypatch, "other")
    before = sorted(folder.glob("*/artifacts/**/*"))
    decision = gate(tmp_path / "gate2", second, against=first)
    with pytest.raises(ServiceError, match=r"drift-vlm: MLflow at http.* (refuses \()?.*Permission denied"):
        register(CONFIG, model=str(second), gate=decision)
    with pytest.raises(ServiceError, match="Permission denied"):
        promote_by_hand(NAME, "1", yes_again=True)
    assert sorted(folder.glob("*/artifacts/**/*")) == before, "nothing was uploaded"
    become(monkeypatch, "trainer")
    champion = find_champion(NAME)
    assert champion is not None and champion.version == 1


def test_a_name_that_does_not_exist_is_said_or_refused_and_no_model_is_made_of_it(
    server: str, monkeypatch: pytest.MonkeyPatch
):
    become(monkeypatch, "trainer")
    for look in (versions_of, partial(details_of, version="champion"), partial(roll_back, reason="x")):
        with pytest.raises(
            DriftError, match=r"^typo: (no such registered model|MLflow at .* refuses \(403 'Permission)"
        ):
            look("typo")
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    assert "typo" not in [one.name for one in MlflowClient(server).search_registered_models()]


def test_models_are_registered_where_mlflow_registry_uri_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("runs", "registry"):
        (tmp_path / name).mkdir()
    with mlflow_server(tmp_path / "runs") as runs, mlflow_server(tmp_path / "registry") as registry:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", runs)
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
        monkeypatch.setenv("DRIFT_MLFLOW_RUN_ID", Tracker.open(runs, experiment="e", run_id="r", name="r").parent)
        name = "catalog.schema.drift"
        made = model(tmp_path / "model")
        reports = [
            register(RegisterConfig(model=name), model=str(made), gate=gate(tmp_path / f"gate{n}", made))
            for n in (1, 2)
        ]
        assert [(one.version, one.created, one.champion) for one in reports] == [(1, True, True), (1, False, True)]
        assert MlflowClient(registry).get_registered_model(name).aliases["champion"] == "1"
        assert MlflowClient(registry).get_model_version(name, "1").tags["drift.run"].startswith(f"{runs}#")
        assert MlflowClient(runs, registry_uri=runs).search_registered_models() == []
        assert list((tmp_path / "registry" / "artifacts").rglob("*.safetensors")), "a server names no other's files"
        champion = find_champion(name)
        (tmp_path / "into").mkdir()
        assert champion is not None
        assert content_sha256(fetch(champion, tmp_path / "into")) == content_sha256(made)
